// Drives the AXI4-Lite port of one Verilated accelerator. C ABI, called from rtl.py through ctypes.
//
// SORDINO_WAVES is defined as the class of the wave writer in builds with waves. Registers and memories have no initial values in
// the Verilog: they start from zeros or, given a seed, from random bits, and a reset must do the rest.

#include <cstdint>
#include <memory>

#include "Vtop.h"
#include "verilated.h"
#ifdef SORDINO_WAVES
#include SORDINO_WAVES_HEADER
#endif

namespace {

constexpr uint32_t CTRL = SORDINO_CTRL, STATUS = SORDINO_STATUS;  // byte addresses, from isa.CSR
constexpr uint64_t PATIENCE = 100000;   // cycles without an answer: the bus hangs
constexpr uint32_t BETWEEN_POLLS = 64;  // cycles
constexpr int SILENT = -1, CUT = -2;    // what an access returns that is not answered, or that is cut off

class Machine {
 public:
  Machine(const char* waves, uint32_t seed) {
    context.randReset(seed ? 2 : 0);
    if (seed) context.randSeed(seed);
    top = std::make_unique<Vtop>(&context, "top");
#ifdef SORDINO_WAVES
    context.traceEverOn(true);
    top->trace(&writer, 99);
    writer.open(waves);
#else
    (void)waves;
#endif
    reset(1);
  }

  ~Machine() {
#ifdef SORDINO_WAVES
    writer.close();
#endif
    top->final();
  }

  // Writes `count` pieces, piece i to base[i / pieces] + 4 * (i % pieces). Requests and responses overlap.
  // Returns 0; the response code of the first bad answer; SILENT if the port stops answering; CUT if it comes to the cycle `cut`.
  int write(const uint32_t* base, uint64_t rows, uint32_t pieces, const uint32_t* data) {
    const uint64_t count = rows * pieces;
    uint64_t aw = 0, w = 0, b = 0, waited = 0;
    int bad = 0;
    while (b < count) {
      top->s_axil_awvalid = aw < count;
      if (aw < count) top->s_axil_awaddr = base[aw / pieces] + 4 * (aw % pieces);
      top->s_axil_wvalid = w < count;
      if (w < count) top->s_axil_wdata = data[w];
      top->s_axil_wstrb = 15;
      aw += top->s_axil_awvalid && top->s_axil_awready;
      w += top->s_axil_wvalid && top->s_axil_wready;
      if (top->s_axil_bvalid) {
        if (!bad) bad = top->s_axil_bresp;
        ++b;
        waited = 0;
      } else if (++waited > PATIENCE) {
        return SILENT;
      }
      if (ticks == cut) return CUT;
      tick();
    }
    top->s_axil_awvalid = top->s_axil_wvalid = 0;
    return bad;
  }

  // Reads like `write`.
  int read(const uint32_t* base, uint64_t rows, uint32_t pieces, uint32_t* data) {
    const uint64_t count = rows * pieces;
    uint64_t ar = 0, r = 0, waited = 0;
    int bad = 0;
    while (r < count) {
      top->s_axil_arvalid = ar < count;
      if (ar < count) top->s_axil_araddr = base[ar / pieces] + 4 * (ar % pieces);
      ar += top->s_axil_arvalid && top->s_axil_arready;
      if (top->s_axil_rvalid) {
        if (!bad) bad = top->s_axil_rresp;
        data[r++] = top->s_axil_rdata;
        waited = 0;
      } else if (++waited > PATIENCE) {
        return SILENT;
      }
      if (ticks == cut) return CUT;
      tick();
    }
    top->s_axil_arvalid = 0;
    return bad;
  }

  int start() {
    const uint32_t address = CTRL, one = 1;
    return write(&address, 1, 1, &one);
  }

  // Runs for `cycles` or a little more, or until the machine is not running. Returns 1 if it still runs, 0 if not; SILENT; CUT.
  int run(uint64_t cycles) {
    const uint64_t end = ticks + cycles;
    const uint32_t address = STATUS;
    while (true) {
      uint32_t status;
      if (const int bad = read(&address, 1, 1, &status)) return bad;
      if (!(status & 1)) return 0;
      if (ticks >= end) return 1;
      for (uint32_t i = 0; i < BETWEEN_POLLS; ++i) {
        if (ticks == cut) return CUT;
        tick();
      }
    }
  }

  // Holds the reset for some cycles; it acts a cycle later. Meanwhile the manager asks for what it asked when it was cut off.
  void reset(uint32_t cycles) {
    cut = NEVER;
    top->s_axil_bready = top->s_axil_rready = 1;
    top->rst = 1;
    for (uint32_t i = 0; i < cycles; ++i) tick();
    top->rst = 0;
    tick();
    top->s_axil_awvalid = top->s_axil_wvalid = top->s_axil_arvalid = 0;
  }

  static constexpr uint64_t NEVER = ~0ull;
  uint64_t ticks = 0, cut = NEVER;

 private:
  void tick() {
    top->clk = 0;
    top->eval();
    dump(0);
    top->clk = 1;
    top->eval();
    dump(1);
    ++ticks;
  }

  void dump(int half) {
#ifdef SORDINO_WAVES
    writer.dump(2 * ticks + half);
#else
    (void)half;
#endif
  }

  VerilatedContext context;
#ifdef SORDINO_WAVES
  SORDINO_WAVES writer;
#endif
  std::unique_ptr<Vtop> top;
};

}  // namespace

#define API extern "C" __attribute__((visibility("default")))

API void* sordino_open(const char* waves, uint32_t seed) { return new Machine(waves, seed); }
API void sordino_close(void* m) { delete static_cast<Machine*>(m); }
API int sordino_write(void* m, const uint32_t* base, uint64_t rows, uint32_t pieces, const uint32_t* data) {
  return static_cast<Machine*>(m)->write(base, rows, pieces, data);
}
API int sordino_read(void* m, const uint32_t* base, uint64_t rows, uint32_t pieces, uint32_t* data) {
  return static_cast<Machine*>(m)->read(base, rows, pieces, data);
}
API int sordino_start(void* m) { return static_cast<Machine*>(m)->start(); }
API int sordino_run(void* m, uint64_t cycles) { return static_cast<Machine*>(m)->run(cycles); }
API uint64_t sordino_ticks(void* m) { return static_cast<Machine*>(m)->ticks; }
API void sordino_cut(void* m, uint64_t cycles) {
  auto machine = static_cast<Machine*>(m);
  machine->cut = machine->ticks + cycles;
}
API void sordino_reset(void* m, uint32_t cycles) { static_cast<Machine*>(m)->reset(cycles); }
