"""What came out: medians and ratios of the runs, one table, JSON, a bar chart."""
import html
import statistics

SUMMED = ("tokens_per_second", "cpu_seconds_per_token", "disk_bytes_per_token", "flash_bytes_per_token", "hit_rate",
          "stall_share", "prefill_tokens_per_second", "prefill_cpu_seconds_per_token", "prefill_disk_bytes_per_token",
          "load_seconds", "peak_bytes", "peak_rss_bytes", "pinned_bytes", "budget_bytes")
COLUMNS = ("case", "program", "streams", "tokens/s", "min to max", "x one", "x llama", "x pinned", "hits", "disk/token", "disk rate",
           "of fio", "CPU/token", "peak mem")


def summarise(case, entry, samples, error=""):
    """One row: medians over the runs that worked, and what of them the table shows as speed and disk traffic."""
    row = {"case": case.name, "phase": case.phase, "program": entry.label, "streams": entry.streams,
           "mode": entry.mode, "density": entry.density, "runs": samples, "error": error, "median": {}}
    for name in SUMMED:
        values = [sample[name] for sample in samples if sample.get(name) is not None]
        if values:
            row["median"][name] = statistics.median(values)
    prefix = "prefill_" if case.phase == "prefill" else ""
    speeds = [sample[prefix + "tokens_per_second"] for sample in samples]
    if speeds:
        row["speed"] = statistics.median(speeds)
        row["speed_min"], row["speed_max"] = min(speeds), max(speeds)
        row["disk_bytes"] = row["median"].get(prefix + "disk_bytes_per_token", 0)
        row["cpu_seconds"] = row["median"].get(prefix + "cpu_seconds_per_token", 0)
    return row


def add_ratios(rows, fio):
    """Sets what a row's speed is to llama.cpp's, plain and pinned, with as many streams in the same case, to one
    stream of its own program there, and its disk rate to fio's."""
    best = max((point["gb_per_s"] for point in fio), default=None)
    for row in rows:
        if "speed" not in row:
            continue
        for name, label, streams in (("ratio", "llama.cpp", row["streams"]),
                                     ("ratio_pinned", "llama.cpp pinned", row["streams"]),
                                     ("ratio_one", row["program"], 1)):
            base = [r for r in rows if "speed" in r and
                    (r["case"], r["program"], r["streams"]) == (row["case"], label, streams)]
            if base:
                row[name] = row["speed"] / base[0]["speed"]
        row["disk_gb_per_s"] = row["disk_bytes"] * row["speed"] / 1e9
        if best:
            row["disk_share_of_fio"] = row["disk_gb_per_s"] / best


def bytes_text(count):
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count:.0f} B"


def speed_text(tokens_per_second):
    return f"{tokens_per_second:.0f}" if tokens_per_second >= 100 else f"{tokens_per_second:.3g}"


def cells(row):
    """The row as texts, one for each of COLUMNS."""
    head = [row["case"], row["program"], str(row["streams"])]
    if "speed" not in row:
        return [*head, "failed: " + (row["error"] or "no run").splitlines()[0]]
    def ratio(name):
        return f"{row[name]:.2f}" if name in row else "-"
    hits = row["median"].get("hit_rate")
    reads = row["disk_bytes"] > 1e5  # below: noise of other files
    return [*head, speed_text(row["speed"]), f"{speed_text(row['speed_min'])} to {speed_text(row['speed_max'])}",
            ratio("ratio_one") if row["phase"] == "streams" else "-", ratio("ratio"), ratio("ratio_pinned"),
            "-" if hits is None or row["phase"] == "prefill" else f"{100 * hits:.1f} %",
            bytes_text(row["disk_bytes"]) if reads else "-",
            f"{row['disk_gb_per_s']:.2f} GB/s" if reads else "-",
            f"{100 * row['disk_share_of_fio']:.0f} %" if reads and "disk_share_of_fio" in row else "-",
            f"{row['cpu_seconds']:.3g} s", bytes_text(row["median"]["peak_bytes"])]


def table(rows):
    """The table as text: Markdown that also reads well as it is."""
    lines = [list(COLUMNS)] + [cells(row) for row in rows]
    widths = [max(len(line[i]) for line in lines if len(line) == len(COLUMNS)) for i in range(len(COLUMNS))]
    out = []
    for number, line in enumerate(lines):
        if len(line) == len(COLUMNS):
            texts = [text.ljust(width) if i < 2 else text.rjust(width)
                     for i, (text, width) in enumerate(zip(line, widths))]
        else:
            texts = [line[0].ljust(widths[0]), line[1].ljust(widths[1]), line[2].rjust(widths[2]), *line[3:]]
        out.append("| " + " | ".join(texts) + " |")
        if number == 0:
            out.append("|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(out)


def machine_text(machine):
    """The limits of the machine, as lines."""
    facts = machine["facts"]
    lines = [f"{facts['cpu']}, {facts['cores']} cores, {bytes_text(facts['memory_bytes'])} of memory, Linux "
             f"{facts['kernel']}, read-ahead {facts['read_ahead_kib']} KiB, load {facts['load_average']:.1f} at the "
             "start"]
    if machine["memory"]:
        lines.append("memory reads: " + ", ".join(f"{rate:.1f} GB/s with {threads} thread" + "s" * (threads != "1")
                                                  for threads, rate in machine["memory"].items()))
    for point in machine["fio"]:
        lines.append(f"fio, random reads of {point['bytes'] >> 10} KiB, depth {point['depth']}: "
                     f"{point['gb_per_s']:.2f} GB/s, {point['reads_per_s']:.0f} reads/s")
    if not machine["fio"]:
        lines.append("fio is not installed: the drive's own limits are not known")
    return "\n".join(lines)


def svg(rows):
    """Bars of tokens/s, one group for each case, each group on its own scale."""
    rows = [row for row in rows if "speed" in row]
    bar, gap, left, width = 20, 26, 330, 420
    parts, y, case = [], 10, None
    for row in rows:
        if row["case"] != case:
            case = row["case"]
            y += gap
            top = max(r["speed"] for r in rows if r["case"] == case)
            parts.append(f'<text x="10" y="{y}" font-weight="bold">{html.escape(case)} ({row["phase"]})</text>')
            y += 8
        length = max(1, width * row["speed"] / top)
        colour = "#9aa0a6" if row["program"].startswith("llama") else "#1a73e8"
        ratio = f" ({row['ratio']:.1f}x)" if "ratio" in row else ""
        name = row["program"] + (f", {row['streams']} streams" if row["phase"] == "streams" else "")
        parts.append(f'<text x="{left - 8}" y="{y + 14}" text-anchor="end">{html.escape(name)}</text>'
                     f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{bar - 4}" fill="{colour}"/>'
                     f'<text x="{left + length + 6:.1f}" y="{y + 14}">{speed_text(row["speed"])} tokens/s{ratio}</text>')
        y += bar
    height, whole = y + 16, left + width + 180
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{whole}" height="{height}" viewBox="0 0 {whole} {height}" '
            f'font-family="sans-serif" font-size="13"><rect width="{whole}" height="{height}" fill="white"/>\n'
            + "\n".join(parts) + "\n</svg>\n")
