"""What is compared: the cases, and in each the programs and modes that make its rows. Data, no I/O."""
import dataclasses

MIB = 1 << 20


@dataclasses.dataclass(frozen=True)
class Entry:
    """One row of the table."""
    program: str            # "llama.cpp" or "tidegate"
    mode: str = ""          # tidegate: dense, dip, dip_ca
    density: float = 1.0
    pinned: bool = False    # llama.cpp: a part of its file is locked into memory beforehand
    streams: int = 1        # that decode at once

    @property
    def label(self):
        if self.program == "llama.cpp":
            return "llama.cpp pinned" if self.pinned else "llama.cpp"
        return "tidegate dense" if self.mode == "dense" else f"tidegate {self.mode} {self.density:g}"

    @property
    def reads_everything(self):
        """Whether every token reads most of what is not in memory: slow, and steady after one token."""
        return self.program == "llama.cpp" or self.mode == "dense"


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    file: str               # "q4" or "q8": which GGUF file, and the pack made of it
    capped: bool
    phase: str              # "decode", "prefill" or "streams": what tokens/s means
    entries: tuple
    about: str

    def rows(self, streams):
        """The entries; of a case with streams each of them with every number of `streams`."""
        if self.phase != "streams":
            return list(self.entries)
        return [dataclasses.replace(entry, streams=number) for number in streams for entry in self.entries]


LLAMA, PINNED = Entry("llama.cpp"), Entry("llama.cpp", pinned=True)
DENSE = Entry("tidegate", "dense")
DIP_1, DIP_HALF = Entry("tidegate", "dip", 1.0), Entry("tidegate", "dip", 0.5)
CA_MORE, CA_HALF = Entry("tidegate", "dip_ca", 0.75), Entry("tidegate", "dip_ca", 0.5)

CASES = (
    Case("resident", "q4", False, "decode", (LLAMA, DENSE, DIP_1, CA_MORE, CA_HALF),
         "everything in memory, 4-bit file"),
    Case("resident-prefill", "q4", False, "prefill", (LLAMA, DENSE), "a long prompt, everything in memory"),
    Case("capped", "q8", True, "decode", (LLAMA, PINNED, DENSE, DIP_HALF, CA_MORE, CA_HALF),
         "memory capped, 8-bit file"),
    Case("capped-prefill", "q8", True, "prefill", (LLAMA, DENSE), "a long prompt, memory capped"),
    Case("capped-q4", "q4", True, "decode", (DENSE, CA_MORE, CA_HALF),
         "memory capped, 4-bit file; llama.cpp repacks such files in memory and is killed"),
    Case("resident-streams", "q4", False, "streams", (LLAMA, DENSE, CA_HALF),
         "many streams at once, everything in memory, 4-bit file"),
    Case("capped-streams", "q8", True, "streams", (LLAMA, PINNED, DENSE, CA_HALF),
         "many streams at once, memory capped, 8-bit file"),
    Case("resident-q8", "q8", False, "decode", (LLAMA, DENSE, CA_HALF), "everything in memory, 8-bit file"),
)
DEFAULT_CASES = "resident,resident-prefill,capped,capped-prefill,capped-q4"


def cases_named(text):
    """The cases of a comma-separated list, in the order of CASES. ValueError names one that does not exist."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    known = {case.name for case in CASES}
    for name in names:
        if name not in known:
            raise ValueError(f"there is no case '{name}'; there are {', '.join(case.name for case in CASES)}")
    if not names:
        raise ValueError("no case is named")
    return [case for case in CASES if case.name in names]


def default_cap(file_bytes):
    """Half of the file, and 300 MiB for the program itself."""
    return file_bytes // 2 + 300 * MIB


def default_overhead(prompt_tokens):
    """What a process takes beside its --memory-budget. Measured on a model of 8 billion weights: 43 MiB of group
    peak above the budget after a prompt of 16 tokens, 160 MiB after 512, most of it activations."""
    return 96 * MIB + prompt_tokens * MIB // 4
