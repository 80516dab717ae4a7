"""A job's state in words: what it does, how far it is, and whose fault it is when it failed."""

from dataclasses import dataclass

from composer.models import Search
from composer.progress import Progress
from hub_site.figures import duration, number

# Codes of errors that are ours; every other code comes with a message for the one who asked.
OUR_FAULT = {"our_fault", "crashed", "lost"}


@dataclass(frozen=True)
class JobWords:
    """`sentence` for the page; `announcement` changes seldom, for those who listen to it."""

    sentence: str
    announcement: str
    fault: str = ""
    advice: str = ""


def job_words(search: Search, progress: Progress) -> JobWords:
    job = search.job
    if job.state == "failed":
        return _failed(job.error_code)
    if job.state == "cancelled":
        tried = f" after {progress.evaluations} evaluations" if progress.evaluations else ""
        return JobWords(f"Cancelled{tried}.", "Cancelled.")
    if job.state == "done":
        return JobWords("Done.", "Done.")
    if job.cancel_requested:
        return JobWords("Stopping after this generation.", "Stopping.")
    if job.state == "queued":
        return _queued(progress)
    return _running(progress)


def _queued(progress: Progress) -> JobWords:
    ahead = max(0, (progress.queue_position or 1) - 1)
    if ahead == 0:
        words = "Accepted; it is the next one to start."
    else:
        words = f"Accepted; {ahead} job{'' if ahead == 1 else 's'} before this one."
    return JobWords(words, words)


def _running(progress: Progress) -> JobWords:
    stage = progress.stage_name or "Starting"
    if progress.stage_detail:
        stage = f"{stage}: {progress.stage_detail}"
    if progress.stage != "searching" or progress.best_loss is None:
        return JobWords(f"{stage}.", f"{progress.stage_name or 'Starting'}.")
    parts = [f"Generation {progress.generation}", f"best loss {number(progress.best_loss)}"]
    if last := _last_generation(progress):
        parts[0] += f" of {last}"
    if progress.seconds_left is not None:
        about = "about " if progress.seconds_left >= 1 else ""
        parts.append(f"{about}{duration(progress.seconds_left)} left")
    quarter = int(progress.fraction * 4) * 25
    return JobWords(", ".join(parts) + ".", f"Searching, {quarter} % done.")


def _last_generation(progress: Progress) -> int | None:
    """The number of the last generation, once two of them show how large one is."""
    if len(progress.curve) < 2:
        return None
    size = progress.curve[-1].evaluations - progress.curve[-2].evaluations
    if size <= 0:
        return None
    left = max(0, progress.budget - progress.evaluations)
    return progress.generation + -(-left // size)


def _failed(code: str) -> JobWords:
    if code in OUR_FAULT:
        return JobWords(
            "This composition failed.",
            "Failed.",
            "That is our fault, not yours.",
            "Nothing of your task is lost. Compose again; if it fails again, tell the people who "
            "run this site.",
        )
    return JobWords(
        "This composition could not be done.",
        "Failed.",
        "The site works as it should: something in the task or the settings has to change.",
        "Mend that, and compose again.",
    )
