"""The documents that the commands write with `--json`: one model for each, from which the published JSON Schemas are made.

Docstrings become the descriptions in the schema and in the docs. The version of the keys is `jsonfile.VERSION`.
"""

import dataclasses
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from sordino_hw.spec.arch import PRESETS, ArchConfig
from sordino_hw.spec.errors import InputError

from .jsonfile import VERSION

__all__ = ["DOCUMENTS", "arch_file_schema", "json_schema", "validate"]

DIALECT = "https://json-schema.org/draft/2020-12/schema"

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0)]


class Model(BaseModel):
    """What all have in common: unknown keys are errors, and a text is no number."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)


def _architecture() -> type[Model]:
    """`ArchConfig.to_dict` as a model; `needs` and fields with defaults may be missing from documents of other releases."""
    fields: dict[str, Any] = {}
    for f in dataclasses.fields(ArchConfig):
        fields[f.name] = (f.type, ... if "since" not in f.metadata else f.default)
    return create_model("Architecture", __base__=Model, needs=(str | None, None), **fields)


Architecture: Any = _architecture()


class Versions(Model):
    sordino: str
    torch: str
    numpy: str
    amaranth: str
    verilator: str
    python: str


class Document(Model):
    """What every document starts with."""

    command: str
    """The command that wrote it."""
    schema_version: Annotated[int, Field(alias="schema")]
    """Version of the keys."""
    versions: Versions


class Causes(Model):
    """What cycles went to, means over the cores; they add up to the cycles."""

    busy: Amount
    fetch: Amount
    ppu: Amount
    marker: Amount
    memory: Amount
    idle: Amount


class Layer(Model):
    """Figures of a layer, means of an image. Null where the back end counts no cycles."""

    name: str
    kind: str
    source: str
    """Where it comes from in the model."""
    macs: Amount
    """Multiply-accumulates of the original layer, zeros included."""
    nonzero_macs: Amount
    """Those whose activation is in bounds and not zero and whose weight word is not zero."""
    events: Amount
    """Weight words issued (event mode), non-zero lanes read (vector mode)."""
    density: Share
    """Non-zero part of the input tensor; in `total`, of the tensors between the layers."""
    cycles: Amount | None
    causes: Causes | None
    words: Amount | None
    """Activation words read."""
    skipped: Amount | None
    """Empty activation words skipped."""
    eta: Amount | None
    """nonzero_macs / (cores x lanes x cycles)."""


class Stats(Model):
    """Figures of a run."""

    backend: str
    images: Count
    layers: list[Layer]
    total: Layer
    """Of the whole network; its cycles include those of no layer: the tail of each program segment."""
    densities: dict[str, Share]
    """Non-zero part, by tensor."""
    nonzero: dict[str, Amount]
    """Non-zero values, by tensor."""
    nonzero_activations: Amount
    """Non-zero values of the tensors between the layers together."""
    cycles: list[int] | None
    """Cycles of each image."""


class Time(Model):
    """What an inference takes: compute, load and link, one after the other, at the rate of the array's own port. Times are null
    without a clock."""

    clock_mhz: Amount | None
    """Measured for the presets, or given with --clock."""
    clock_source: str | None
    compute_cycles: Amount
    """From start to halt, all segments."""
    load_cycles: Count
    """Writing instructions, weights and parameters again for every image: of a program of several segments."""
    link_cycles: Count
    """Writing the input and reading the output."""
    once_cycles: Count
    """Loading the program before the first image."""
    compute_ms: Amount | None
    load_ms: Amount | None
    link_ms: Amount | None
    once_ms: Amount | None
    frames_per_second: Amount | None
    """Of compute, load and link."""
    compute_frames_per_second: Amount | None
    """Of compute alone."""


class Rows(Model):
    """Rows of a memory."""

    used: Count
    depth: Count


class Operator(Model):
    """An operator of the exported graph."""

    node: str
    operator: str
    source: str
    shape: list[int]
    """(channels, height, width); empty where it is not fixed."""
    becomes: str
    reason: str
    """Why it is not supported; empty if it is."""
    supported: bool


class HostStep(Model):
    """What the host computes before or after the array, of an image."""

    side: Literal["before", "after"]
    step: str
    """The operation with its operands and attributes."""
    source: str
    """Operator of the exported graph, and where it comes from in the model."""
    shape: list[int]
    """Of the result, without the batch."""
    operations: Count
    """Element operations."""
    milliseconds: Amount
    """Measured on the machine that ran the command."""


class Returned(Model):
    """One part of what a network returns."""

    name: str
    """Its keys and positions in the structure, joined by points; of a tensor by itself, or in a tuple of tensors, its name."""
    dtype: str
    """Of the array; `literal` for a constant."""
    shape: list[int]
    """With the batch."""
    value: bool | int | float | str | None
    """Of a constant; null for arrays."""


class PredictedLayer(Model):
    name: str
    kind: str
    macs: Count
    cycles: Amount
    bound: Literal["events", "spans", "words", "drain"]
    """The stage that limits it."""


class Prediction(Model):
    density: Share
    """Assumed, of every activation."""
    cycles: Amount
    time: Time
    layers: list[PredictedLayer]


class Advice(Model):
    """About the layer that costs most."""

    layer: str
    share: Share
    """Its part of the cycles."""
    bound: str
    text: str
    density: Share
    """Assumed."""


class LiveMemory(Model):
    """Words of activation memory in use while a layer runs."""

    layer: str
    words: Count
    """Of tensors that it or a later layer reads, its own output included."""


class Check(Document):
    command: Literal["check"]
    arch: Architecture
    ok: bool
    """Whether it compiles."""
    problem: str
    """Why not."""
    fits: list[str]
    """Of a supported network that does not fit: the presets that it fits."""
    operators: list[Operator]
    memory: dict[str, Rows]
    """By memory."""
    segments: Count
    """Program segments, each loaded by the host."""
    host: list[HostStep]
    predicted: list[Prediction]
    advice: Advice | None
    activation_memory: list[LiveMemory]
    """By layer; of a network that does not fit, the words that whole tensors want. Empty where nothing could be compiled."""


class Transfers(Model):
    """Cycles of the host's port."""

    once_cycles: Count
    """Loading the program before the first image."""
    load_cycles: Count
    """Writing again what differs between segments, for every image."""
    link_cycles: Count
    """Writing the input and reading the output."""


class CompiledLayer(Model):
    name: str
    kind: str
    source: str
    macs: Count
    zero_weights: Share
    mapping: str
    """How the layer is spread over the cores."""


class Compile(Document):
    command: Literal["compile"]
    file: str
    name: str
    arch: Architecture
    dense: bool
    random_weights: bool
    """Whether the network was compiled untrained."""
    segments: Count
    operations: Count
    memory: dict[str, Rows]
    layers: list[CompiledLayer]
    calibration_images: Count
    transfers: Transfers
    activation_memory: list[LiveMemory]


class Run(Document):
    command: Literal["run"]
    file: str
    arch: Architecture
    stats: Stats
    time: Time | None
    """Null for the back end golden, which counts no cycles."""
    returned: list[Returned]
    """What a call returns, in order; with --integers the array's outputs."""


class Epoch(Model):
    epoch: Count
    loss: float
    penalty: float
    score: float
    """Validation accuracy."""
    density: float
    events: float
    """Non-zero activations of a validation image."""
    task_loss: float
    lr: float
    densities: dict[str, float]
    watched: dict[str, dict[str, float]]
    """Thresholds and the like: `least`, `mean`, `largest`, by name and module path."""
    seconds: float


class Trained(Model):
    task: str
    method: str | dict[str, str | None]
    """A name, or names by pattern."""
    options: dict[str, Any]
    """Of the method, or by pattern."""
    seed: int
    validation_accuracy: Share
    test_accuracy: Share
    """Of the float network."""
    density: Share
    """Of the activations that a method may replace, on the test set."""
    nonzero: Amount
    """Non-zero values an image."""
    history: list[Epoch]


class Train(Document, Trained):
    command: Literal["train"]
    checkpoint: str


class TrainOwn(Document):
    command: Literal["train"]
    model: str
    """FILE.py:NAME."""
    classes: Count
    method: str | dict[str, str | None]
    options: dict[str, Any]
    epochs: Count
    sparse_epochs: Count
    replace: dict[str, Literal["now", "blend"]]
    """Which smooth activations were replaced, and how."""
    prune: Share
    prune_epochs: Count
    qat_epochs: Count
    lr: Amount
    batch_size: Count
    seed: int
    validation_accuracy: Share
    test_accuracy: Share
    """Of the integer network after quantisation-aware training, else of the float network."""
    density: Share
    quantised: bool
    history: list[Epoch]
    checkpoint: str


class Shape(Model):
    cin: Count
    cout: Count
    kernel: Count
    size: Count
    stride: Count


class DensityRow(Model):
    density: Share
    measured_density: Share
    mapping: str
    """Chosen for that density."""
    cycles: Amount
    """Of the whole run, from start to halt."""
    of_dense: Amount
    events: Amount
    nonzero_macs: Amount
    eta: Amount
    causes: Causes


class Sweep(Model):
    macs: Count
    dense_cycles: Amount
    """In dense mode, which ignores zeros."""
    rows: list[DensityRow]
    """By density."""


class BenchLayer(Document, Sweep):
    command: Literal["bench layer"]
    shape: Shape
    arch: Architecture
    clock_mhz: Amount | None
    backend: str
    seed: int


class SuiteLayer(Sweep):
    name: str
    op: str
    shape: Shape
    of_size: Count
    """The size before it was cut down to fit."""


class BenchSuite(Document):
    command: Literal["bench layer"]
    arch: Architecture
    clock_mhz: Amount | None
    backend: str
    seed: int
    layers: list[SuiteLayer]


class OnRtl(Model):
    cycles: Count
    eta: Amount


class NetworkFigures(Model):
    macs: Count
    macs_in_bounds: Count
    """Without those on padding."""
    nonzero_macs: Count
    cycles: Count
    dense_cycles: Count
    eta: Amount
    causes: Causes


class NetworkLayer(NetworkFigures):
    name: str
    op: str
    added: str | None
    """The addition fused into it."""
    density: Share
    mapping: str
    rtl: OnRtl | None = None
    """With --rtl; null for a layer that does not fit."""


class BenchNetwork(Document, NetworkFigures):
    command: Literal["bench network"]
    workload: str
    note: str
    arch: Architecture
    clock_mhz: Amount | None
    memory: Literal["ideal"]
    seed: int
    multipliers: Count
    """cores x lanes."""
    speedup: Amount
    """dense_cycles / cycles."""
    mac_ratio: Amount | None
    """macs_in_bounds / nonzero_macs."""
    layers: list[NetworkLayer]
    seconds: Amount


class TinyRun(Model):
    network: Literal["kws", "vww", "ic", "ad"]
    task: str
    model: str
    """Its name in the zoo."""
    parameters: Count
    macs: Count
    wanted_density: Share
    density: Share
    """Of all tensors between the layers, measured."""
    memory: Literal["architecture", "deep"]
    """deep: deeper memories than the architecture has, because the network does not fit."""
    refused: str | None
    """Why it does not fit."""
    segments: Count
    cycles: Amount
    """Mean over the inputs, without loading and links."""
    eta: Amount
    ms: Amount | None
    on_rtl: bool
    """Whether the RTL took the same number of cycles; false if it was not asked."""


class BenchTiny(Document):
    command: Literal["bench tiny"]
    arch: Architecture
    multipliers: Count
    clock_mhz: Amount | None
    seed: int
    images: Count
    rows: list[TinyRun]
    published_ms: dict[str, dict[str, Amount | None]]
    """By system and network: 1000 / median throughput in MLPerf Tiny's public results."""


class BenchSim(Document):
    command: Literal["bench sim"]
    arch: Architecture
    seed: int
    images: Count
    verilator_cycles_per_second: Amount
    golden_images_per_second: Amount
    timing_images_per_second: Amount


class Hop(Model):
    kind: str
    """clk-to-q, logic, routing or setup."""
    delay: float
    """In ns."""
    cell: str
    """Where it ends."""


class CriticalPath(Model):
    source: str
    sink: str
    logic_ns: float
    routing_ns: float
    cells: Count
    """Passed between the registers."""
    hops: list[Hop]


class SlowGroup(Model):
    """Inputs of registers and memories that take more than 85% of the slowest path, grouped by names that differ in digits alone."""

    sink: str
    source: str
    """The last cell before it."""
    endpoints: Count
    delay: float
    """Of the slowest, in ns."""


class Routed(Model):
    seed: int
    fmax_mhz: Amount
    seconds: Amount
    critical_path: CriticalPath
    slow: list[SlowGroup]


class BenchFpga(Document):
    command: Literal["bench fpga"]
    arch: Architecture
    device: str
    target_mhz: Amount
    """The frequency that place and route works towards."""
    tools: dict[str, str]
    """Versions of the programs."""
    cells: dict[str, Count]
    """Number of cells by type after synthesis."""
    synthesis_seconds: Amount
    fmax_median_mhz: Amount
    fmax_worst_mhz: Amount
    used: dict[str, Count]
    """By resource, of the first seed."""
    available: dict[str, Count]
    share: dict[str, Amount]
    runs: list[Routed]
    """One for each seed."""
    folder: str
    """Logs, netlist and reports."""


class Tool(Model):
    name: str
    purpose: str
    required: bool
    found: bool
    version: str
    remedy: str


class Doctor(Document):
    command: Literal["doctor"]
    ok: bool
    tools: list[Tool]


class ArchShow(Document):
    command: Literal["arch show"]
    arch: Architecture
    hash: str
    clock_mhz: Amount | None
    """Measured, for a preset."""


class Named(Model):
    arch: Architecture
    hash: str
    clock_mhz: Amount | None


class ArchList(Document):
    command: Literal["arch list"]
    architectures: list[Named]


class Disagreement(Model):
    image: Count
    label: Count
    integer: Count
    torch: Count
    integer_logits: list[float]
    torch_logits: list[float]


class Agreement(Model):
    top1: Share
    """Share of test images on which the integers and PyTorch's quantised model name the same digit."""
    disagreements: list[Disagreement]
    """Every other one."""


class Accuracy(Model):
    """Of the whole test set; `rtl` of the images that ran there."""

    float_: Annotated[Share, Field(alias="float")]
    integer: Share
    """Golden model."""
    torch_quantised: Share
    rtl: Share


class Golden(Model):
    stats: Stats
    images_per_second: Amount


class Rtl(Model):
    stats: Stats
    values_compared: Count
    """RTL == golden; a difference stops the demo."""
    records_compared: Count
    """Counters, RTL == timing model; a difference stops the demo."""
    cycles_per_second: Amount
    """Speed of the simulation."""
    dense_cycles: Amount
    dense_layers: dict[str, Amount]
    speedup_over_dense: Amount


class DemoNetwork(Trained):
    name: str
    accuracy: Accuracy
    agreement: Agreement
    golden: Golden
    rtl: Rtl
    time: Time


class Cut(Model):
    """The plain network with thresholds and no training."""

    quantile: Share
    accuracy: Share
    cycles: Amount


class DemoComparison(Model):
    fewer_nonzero_activations: Amount
    """Ratio."""
    fewer_cycles: Amount
    """Ratio."""
    accuracy_lost: float
    """Integer accuracy of the plain network minus the sparse one's."""


class Demo(Document):
    command: Literal["demo"]
    arch: Architecture
    seed: int
    method: str
    trained_here: bool
    """Whether the networks were trained in this run; else they are those that come with Sordino."""
    test_images: Count
    rtl_images: Count
    networks: list[DemoNetwork]
    """Plain ReLU, and the sparse one."""
    cuts: list[Cut]
    comparison: DemoComparison
    seconds: dict[str, Amount]
    """By step, and `all`."""


class StudyDocument(Document):
    """A study; `trials`, `groups` and `rows` hold what docs/how-to/compare-methods.md describes."""

    command: Literal["study"]
    name: str
    settings: dict[str, Any]
    trials: list[dict[str, Any]]
    failed: list[dict[str, Any]]
    pending: Count
    groups: list[dict[str, Any]]
    rows: list[dict[str, Any]]


DOCUMENTS: dict[str, tuple[type[Document], ...]] = {
    "demo": (Demo,),
    "train": (Train, TrainOwn),
    "check": (Check,),
    "compile": (Compile,),
    "run": (Run,),
    "bench layer": (BenchLayer, BenchSuite),
    "bench network": (BenchNetwork,),
    "bench sim": (BenchSim,),
    "bench tiny": (BenchTiny,),
    "bench fpga": (BenchFpga,),
    "study": (StudyDocument,),
    "arch list": (ArchList,),
    "arch show": (ArchShow,),
    "doctor": (Doctor,),
}
"""The models by command; a command that writes one of two documents has two."""


def arch_file_schema() -> dict[str, Any]:
    """The JSON Schema of a file that `--arch` takes, TOML or JSON."""
    fields: dict[str, Any] = {f.name: (f.type, f.default) for f in dataclasses.fields(ArchConfig)}
    base: Any = (Literal[tuple(PRESETS)] | None, None)  # type: ignore[valid-type]
    found = create_model("ArchFile", __base__=Model, base=base, needs=(str | None, None), **fields).model_json_schema()
    return {"$schema": DIALECT, "title": "Sordino architecture file", **{k: v for k, v in found.items() if k != "title"}}


def json_schema(command: str) -> dict[str, Any]:
    """The published JSON Schema of a command's document (draft 2020-12)."""
    from pydantic import TypeAdapter

    models = DOCUMENTS[command]
    either: Any = models[0] if len(models) == 1 else models[0] | models[1]
    found = TypeAdapter(either).json_schema()
    return {
        "$schema": DIALECT,
        "title": f"sordino {command} --json, version {VERSION}",
        **{k: v for k, v in found.items() if k != "title"},
    }


def validate(text: str, command: str) -> None:
    """Checks a document. Raises `InputError` naming the first key at fault."""
    first: ValidationError | None = None
    for model in DOCUMENTS[command]:
        try:
            model.model_validate_json(text)
        except ValidationError as error:
            if first is None or error.error_count() < first.error_count():
                first = error
        else:
            return
    assert first is not None
    fault = first.errors()[0]
    raise InputError(f"{command}: {'.'.join(map(str, fault['loc']))}: {fault['msg']} ({first.error_count()} faults in all).")
