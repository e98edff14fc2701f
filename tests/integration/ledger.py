"""The goodput ledger worked out from trainer_log.jsonl, without the program."""

PARTS = ("productive", "evaluation", "checkpoint", "data", "startup", "lost", "waiting")


def recomputed(log: list[dict]) -> dict:
    """The ledger from trainer_log.jsonl: process by process, then what each next one threw away."""
    begins = [i for i, entry in enumerate(log) if entry["event"] == "process"]
    processes = [log[begin:end] for begin, end in zip(begins, [*begins[1:], len(log)])]
    sums = dict.fromkeys(PARTS, 0.0) | {"steps_lost": 0}
    spans = []  # (step after it, parts) of what still counts
    for number, process in enumerate(processes):
        started, resumed = process[0]["process_started"], process[0]["step"]
        if number:
            previous = processes[number - 1]
            begun, last_sign = previous[0], process[0]["last_sign_of_life"]
            accounted = [entry for entry in previous if entry["event"] in ("startup", "timing")]
            known = sum(entry["seconds"] for entry in accounted)
            # Seconds that it lived, and the time of day then; the greatest is the newest.
            signs = [(known, accounted[-1]["time"])] if accounted else [(begun["time"] - begun["process_started"], begun["time"])]
            if previous[-1]["event"] != "goodput" and last_sign["process_started"] == begun["process_started"]:
                signs.append((last_sign["seconds"], last_sign["time"]))
            lived, seen = max(signs)
            sums["lost" if accounted else "startup"] += lived - known
            sums["waiting"] += max(0, started - seen)
            if spans and spans[-1][0] > resumed:
                sums["steps_lost"] += spans[-1][0] - resumed
                sums["lost"] += sum(sum(parts.values()) for step, parts in spans if step > resumed)
                spans = [span for span in spans if span[0] <= resumed]
        for entry in process:
            if entry["event"] == "startup":
                sums["startup"] += entry["seconds"]
            elif entry["event"] == "timing":
                parts = {part: entry[part] for part in ("evaluation", "checkpoint", "data")}
                spans.append((entry["step"], parts | {"productive": entry["seconds"] - sum(parts.values())}))
    for _, parts in spans:
        for part, seconds in parts.items():
            sums[part] += seconds
    return sums
