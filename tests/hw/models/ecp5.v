// Behavioural models of the two ECP5 primitives that Yosys has only as black boxes, as far as the primitives use them:
// port A writes or reads, port B reads. Written after Lattice's memory and sysDSP usage guides (FPGA-TN-02204, FPGA-TN-02205).
// A bit that is written in the cycle of its read comes out inverted, so that nothing can rely on it.

module DP16KD #(
    parameter DATA_WIDTH_A = 18, DATA_WIDTH_B = 18,
    parameter REGMODE_A = "NOREG", REGMODE_B = "NOREG", RESETMODE = "SYNC", ASYNC_RESET_RELEASE = "SYNC",
    parameter CSDECODE_A = "0b000", CSDECODE_B = "0b000", WRITEMODE_A = "NORMAL", WRITEMODE_B = "NORMAL",
    parameter CLKAMUX = "CLKA", CLKBMUX = "CLKB", GSR = "ENABLED", INIT_DATA = "STATIC", WID = 0,
    parameter [319:0] INITVAL_00 = 0, INITVAL_01 = 0, INITVAL_02 = 0, INITVAL_03 = 0, INITVAL_04 = 0, INITVAL_05 = 0,
    INITVAL_06 = 0, INITVAL_07 = 0, INITVAL_08 = 0, INITVAL_09 = 0, INITVAL_0A = 0, INITVAL_0B = 0, INITVAL_0C = 0,
    INITVAL_0D = 0, INITVAL_0E = 0, INITVAL_0F = 0, INITVAL_10 = 0, INITVAL_11 = 0, INITVAL_12 = 0, INITVAL_13 = 0,
    INITVAL_14 = 0, INITVAL_15 = 0, INITVAL_16 = 0, INITVAL_17 = 0, INITVAL_18 = 0, INITVAL_19 = 0, INITVAL_1A = 0,
    INITVAL_1B = 0, INITVAL_1C = 0, INITVAL_1D = 0, INITVAL_1E = 0, INITVAL_1F = 0, INITVAL_20 = 0, INITVAL_21 = 0,
    INITVAL_22 = 0, INITVAL_23 = 0, INITVAL_24 = 0, INITVAL_25 = 0, INITVAL_26 = 0, INITVAL_27 = 0, INITVAL_28 = 0,
    INITVAL_29 = 0, INITVAL_2A = 0, INITVAL_2B = 0, INITVAL_2C = 0, INITVAL_2D = 0, INITVAL_2E = 0, INITVAL_2F = 0,
    INITVAL_30 = 0, INITVAL_31 = 0, INITVAL_32 = 0, INITVAL_33 = 0, INITVAL_34 = 0, INITVAL_35 = 0, INITVAL_36 = 0,
    INITVAL_37 = 0, INITVAL_38 = 0, INITVAL_39 = 0, INITVAL_3A = 0, INITVAL_3B = 0, INITVAL_3C = 0, INITVAL_3D = 0,
    INITVAL_3E = 0, INITVAL_3F = 0
) (
    input DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11, DIA10, DIA9, DIA8, DIA7, DIA6, DIA5, DIA4, DIA3, DIA2, DIA1, DIA0,
    input ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7, ADA6, ADA5, ADA4, ADA3, ADA2, ADA1, ADA0,
    input CEA, OCEA, CLKA, WEA, RSTA, CSA2, CSA1, CSA0,
    output DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11, DOA10, DOA9, DOA8, DOA7, DOA6, DOA5, DOA4, DOA3, DOA2, DOA1, DOA0,
    input DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9, DIB8, DIB7, DIB6, DIB5, DIB4, DIB3, DIB2, DIB1, DIB0,
    input ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7, ADB6, ADB5, ADB4, ADB3, ADB2, ADB1, ADB0,
    input CEB, OCEB, CLKB, WEB, RSTB, CSB2, CSB1, CSB0,
    output DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11, DOB10, DOB9, DOB8, DOB7, DOB6, DOB5, DOB4, DOB3, DOB2, DOB1, DOB0
);
    wire [35:0] di = {DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9, DIB8, DIB7, DIB6, DIB5, DIB4, DIB3, DIB2,
        DIB1, DIB0, DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11, DIA10, DIA9, DIA8, DIA7, DIA6, DIA5, DIA4, DIA3, DIA2,
        DIA1, DIA0};
    wire [13:0] ada = {ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7, ADA6, ADA5, ADA4, ADA3, ADA2, ADA1, ADA0};
    wire [13:0] adb = {ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7, ADB6, ADB5, ADB4, ADB3, ADB2, ADB1, ADB0};

    reg [8:0] bytes [0:2047];
    integer n;
    initial for (n = 0; n < 2048; n = n + 1) bytes[n] = 0;

    // The write of this cycle: which bits of which byte, and what to.
    wire writes = CEA & WEA & ({CSA2, CSA1, CSA0} == 3'b000);
    reg [35:0] mask, value;
    reg [10:0] first;
    always @* begin
        mask = 0;
        value = di;
        first = ada[13:3];
        case (DATA_WIDTH_A)
            36: begin first = {ada[13:5], 2'b0}; mask = {{9{ada[3]}}, {9{ada[2]}}, {9{ada[1]}}, {9{ada[0]}}}; end
            18: begin first = {ada[13:4], 1'b0}; mask = {18'b0, {9{ada[1]}}, {9{ada[0]}}}; end
            9: mask = 36'h1ff;
            4: begin mask = 36'hf << (4 * ada[2]); value = {9{di[3:0]}}; end
            2: begin mask = 36'h3 << (2 * ada[2:1]); value = {18{di[1:0]}}; end
            default: begin mask = 36'h1 << ada[2:0]; value = {36{di[0]}}; end
        endcase
        if (!writes) mask = 0;
    end
    integer k;
    always @(posedge CLKA)
        for (k = 0; k < 4; k = k + 1)
            if (mask[9 * k +: 9] != 0)
                bytes[first + k[10:0]] <= (bytes[first + k[10:0]] & ~mask[9 * k +: 9]) | (value[9 * k +: 9] & mask[9 * k +: 9]);

    function [8:0] look(input [10:0] at);
        look = bytes[at] ^ (at - first < 11'd4 ? mask[9 * (at - first) +: 9] : 9'b0);
    endfunction
    function [35:0] read(input integer width, input [13:0] at);
        case (width)
            36: read = {look({at[13:5], 2'd3}), look({at[13:5], 2'd2}), look({at[13:5], 2'd1}), look({at[13:5], 2'd0})};
            18: read = {18'b0, look({at[13:4], 1'b1}), look({at[13:4], 1'b0})};
            9: read = {27'b0, look(at[13:3])};
            4: read = {32'b0, 4'(look(at[13:3]) >> (4 * at[2]))};
            2: read = {34'b0, 2'(look(at[13:3]) >> (2 * at[2:1]))};
            default: read = {35'b0, 1'(look(at[13:3]) >> at[2:0])};
        endcase
    endfunction
    reg [35:0] array, held, array_a, held_a;
    always @(posedge CLKB) begin
        if (CEB & ~WEB) array <= read(DATA_WIDTH_B, adb);
        if (OCEB) held <= array;
    end
    always @(posedge CLKA) begin
        if (CEA & ~WEA) array_a <= read(DATA_WIDTH_A, ada);
        if (OCEA) held_a <= array_a;
    end
    wire [35:0] shown_a = REGMODE_A == "OUTREG" ? held_a : array_a;
    wire [35:0] shown = REGMODE_B == "OUTREG" ? held : array;
    // A read of 36 bits takes both ports' pins; a narrower read beside a write of 36 bits comes out at port B's.
    assign {DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11, DOA10, DOA9, DOA8, DOA7, DOA6, DOA5, DOA4, DOA3, DOA2, DOA1, DOA0}
        = DATA_WIDTH_B == 36 ? shown[17:0] : shown_a[17:0];
    assign {DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11, DOB10, DOB9, DOB8, DOB7, DOB6, DOB5, DOB4, DOB3, DOB2, DOB1, DOB0}
        = DATA_WIDTH_B == 36 ? shown[35:18] : shown[17:0];
    always @(posedge CLKA) begin
        if (RSTA | RSTB | ~CEB) $fatal(1, "DP16KD: resets and clock enables are not modelled");
        if (REGMODE_B == "OUTREG" && (~OCEA & (DATA_WIDTH_B == 36))) $fatal(1, "DP16KD: the output register stands still");
    end
endmodule

module MULT18X18D #(
    parameter REG_INPUTA_CLK = "NONE", REG_INPUTA_CE = "CE0", REG_INPUTA_RST = "RST0",
    parameter REG_INPUTB_CLK = "NONE", REG_INPUTB_CE = "CE0", REG_INPUTB_RST = "RST0",
    parameter REG_INPUTC_CLK = "NONE", REG_INPUTC_CE = "CE0", REG_INPUTC_RST = "RST0",
    parameter REG_PIPELINE_CLK = "NONE", REG_PIPELINE_CE = "CE0", REG_PIPELINE_RST = "RST0",
    parameter REG_OUTPUT_CLK = "NONE", REG_OUTPUT_CE = "CE0", REG_OUTPUT_RST = "RST0",
    parameter CLK0_DIV = "ENABLED", CLK1_DIV = "ENABLED", CLK2_DIV = "ENABLED", CLK3_DIV = "ENABLED",
    parameter HIGHSPEED_CLK = "NONE", GSR = "ENABLED", CAS_MATCH_REG = "FALSE", SOURCEB_MODE = "B_SHIFT",
    parameter MULT_BYPASS = "DISABLED", RESETMODE = "SYNC"
) (
    input A17, A16, A15, A14, A13, A12, A11, A10, A9, A8, A7, A6, A5, A4, A3, A2, A1, A0,
    input B17, B16, B15, B14, B13, B12, B11, B10, B9, B8, B7, B6, B5, B4, B3, B2, B1, B0,
    input C17, C16, C15, C14, C13, C12, C11, C10, C9, C8, C7, C6, C5, C4, C3, C2, C1, C0,
    input SIGNEDA, SIGNEDB, SOURCEA, SOURCEB, CLK0, CLK1, CLK2, CLK3, CE0, CE1, CE2, CE3, RST0, RST1, RST2, RST3,
    output P35, P34, P33, P32, P31, P30, P29, P28, P27, P26, P25, P24, P23, P22, P21, P20, P19, P18,
    output P17, P16, P15, P14, P13, P12, P11, P10, P9, P8, P7, P6, P5, P4, P3, P2, P1, P0
);
    wire [17:0] a = {A17, A16, A15, A14, A13, A12, A11, A10, A9, A8, A7, A6, A5, A4, A3, A2, A1, A0};
    wire [17:0] b = {B17, B16, B15, B14, B13, B12, B11, B10, B9, B8, B7, B6, B5, B4, B3, B2, B1, B0};
    reg [17:0] held_a = 0, held_b = 0;
    reg [35:0] held_p = 0;
    wire [17:0] x = REG_INPUTA_CLK == "CLK0" ? held_a : a, y = REG_INPUTB_CLK == "CLK0" ? held_b : b;
    wire [35:0] product = $signed({{18{SIGNEDA & x[17]}}, x}) * $signed({{18{SIGNEDB & y[17]}}, y});
    always @(posedge CLK0) begin
        if (CE0) begin held_a <= a; held_b <= b; held_p <= product; end
        if (RST0 | SOURCEA | SOURCEB) $fatal(1, "MULT18X18D: resets and cascades are not modelled");
    end
    assign {P35, P34, P33, P32, P31, P30, P29, P28, P27, P26, P25, P24, P23, P22, P21, P20, P19, P18,
        P17, P16, P15, P14, P13, P12, P11, P10, P9, P8, P7, P6, P5, P4, P3, P2, P1, P0}
        = REG_OUTPUT_CLK == "CLK0" ? held_p : product;
endmodule
