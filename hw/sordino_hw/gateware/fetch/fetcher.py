"""A fetcher: from the outputs of a group of cores to their activation words."""

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect

from ...spec import isa
from ...spec.arch import ArchConfig
from ...spec.latencies import Latencies
from ...spec.structure import job_depth, reads_late, tag_bits
from ..flight import Descriptors
from ..layouts import Job, ReadWord, TapDescriptor, mask_address
from ..lib.fifo import fifo_for
from ..stages import stages_of
from .walker import Walker

__all__ = ["Fetcher"]


class Fetcher(wiring.Component):
    """Job FIFO, walker, clip, splitter, occupancy, scanner and word reader of one core group.

    Throughput: a word a cycle. Latency: `Latencies.read` and those of the stages before the word reader.

    Parameters
    ----------
    arch : ArchConfig
    index : int
        Number of the fetcher, 0..cores-1.

    Members
    -------
    job : In(Job), job_valid : In(1)
        Pushes a job; there must be room.
    job_taken : Out(1)
        The walker takes a job.
    d_we : In(1), d_tag : In(tag_bits), d : In(TapDescriptor)
        Operation `d_tag` starts in this cycle.
    cycle : In(3)
        Low bits of the machine's cycle count.
    occ_addr, occ_data
        Occupancy memory of this fetcher.
    act_en, act_addr, act_data, mask_valid, m_addr, word_valid, word
        See `WordReader`.
    credit : In(cores)
        The core has room for a word.
    take : Out(cores)
        A word for the core is requested in this cycle; `word_valid` follows `Latencies.read` cycles later.
    words : Out(1), skipped : Out(range(33)), drained : Out(1)
        See `Scanner`.
    trap_act : Out(1)
        A span reached beyond the activation memory.
    """

    def __init__(self, arch: ArchConfig, index: int):
        if not 0 <= index < arch.cores:
            raise ValueError(f"index must be from 0 to {arch.cores - 1}, not {index!r}")
        self.arch, self.index = arch, index
        super().__init__(
            {
                "job": In(Job(arch)),
                "job_valid": In(1),
                "job_taken": Out(1),
                "d_we": In(1),
                "d_tag": In(tag_bits(arch)),
                "d": In(TapDescriptor(arch)),
                "cycle": In(3),
                "occ_addr": Out(max(1, (arch.act_depth // arch.occ_width - 1).bit_length())),
                "occ_data": In(arch.occ_width),
                "act_en": Out(1),
                "act_addr": Out(max(1, (arch.act_depth - 1).bit_length())),
                "act_data": In(arch.lanes if reads_late(arch) else isa.region_bits(arch, isa.Region.ACT)),
                "credit": In(arch.cores),
                "take": Out(arch.cores),
                "mask_valid": Out(arch.cores),
                "m_addr": Out(mask_address(arch)),
                "word_valid": Out(arch.cores),
                "word": Out(ReadWord(arch)),
                "words": Out(1),
                "skipped": Out(range(arch.occ_width + 1)),
                "drained": Out(1),
                "trap_act": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        arch, stages = self.arch, stages_of(self.arch)
        m.submodules.jobs = jobs = fifo_for(Job(arch), job_depth(arch), Latencies(arch).fifo)
        m.submodules.descriptors = descriptors = Descriptors(arch, TapDescriptor(arch))
        m.submodules.walker = walker = Walker(arch)
        m.submodules.clip = clip = stages.clip(arch)
        m.submodules.splitter = splitter = stages.splitter(arch)
        m.submodules.occupancy = occupancy = stages.occupancy(arch)
        m.submodules.scanner = scanner = stages.scanner(arch, self.index)
        m.submodules.reader = reader = stages.word_reader(arch)

        m.d.comb += [
            jobs.i.payload.eq(self.job),
            jobs.i.valid.eq(self.job_valid),
            self.job_taken.eq(jobs.o.valid & jobs.o.ready),
            descriptors.w_en.eq(self.d_we),
            descriptors.w_tag.eq(self.d_tag),
            descriptors.i.eq(self.d),
            descriptors.tag.eq(jobs.o.payload.tag),
            walker.d.eq(descriptors.o),
        ]
        connect(m, jobs.o, walker.job)
        connect(m, walker.spans, clip.i)
        connect(m, clip.o, splitter.i)
        connect(m, splitter.o, occupancy.i)
        m.d.comb += [
            self.trap_act.eq(splitter.trap),
            self.occ_addr.eq(occupancy.r_addr),
            occupancy.r_data.eq(self.occ_data),
        ]
        connect(m, occupancy.o, scanner.rows)
        m.d.comb += [
            scanner.next.eq(occupancy.next),
            scanner.more.eq(occupancy.more),
            scanner.credit.eq(self.credit),
            scanner.cycle.eq(self.cycle),
            reader.valid.eq(scanner.valid),
            reader.request.eq(scanner.request),
            reader.take.eq(scanner.take),
            self.take.eq(scanner.take),
            reader.act_data.eq(self.act_data),
            *(getattr(self, name).eq(getattr(scanner, name)) for name in ("words", "skipped", "drained")),
            *(getattr(self, name).eq(getattr(reader, name)) for name in ("act_en", "act_addr", "mask_valid", "m_addr")),
            *(getattr(self, name).eq(getattr(reader, name)) for name in ("word_valid", "word")),
        ]
        m.d.comb += [occupancy.d.eq(self.d), reader.d.eq(self.d)]
        return m
