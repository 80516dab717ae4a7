"""A job's state in words: what it does, how far it is, and whose fault it is when it failed."""

from dataclasses import dataclass

from composer.models import Search
from composer.progress import Progress
from hub_site.figures import duration, number
from hub_site.jobs.models import Job, JobEvent
from hub_site.jobs.queue import GIVING_WAY, SHUTTING_DOWN

WHY_LEFT = {
    "struck": "the process that ran it died",
    "lost": "its worker or the database could not be reached",
}
MOMENT = 5  # seconds that are not worth a word
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


def interruptions(job: Job) -> str:
    """How often the work was taken up again, and why, in words; empty where it never was.

    Steps aside for short jobs are not told: nobody waits longer for them than for the queue.
    """
    left = job.events.filter(name__in=["released", "struck", "lost"]).order_by("id")
    reasons = [WHY_LEFT.get(event.name) or _why_released(event) for event in left]
    told = [reason for reason in reasons if reason]
    if not told:
        return ""
    times = {1: "once", 2: "twice"}.get(len(told), f"{len(told)} times")
    why = " and ".join(sorted(set(told)))
    now = "went on" if job.state != "queued" else "goes on"
    return (
        f"The work was interrupted {times} ({why}) and {now} from where it was; the result is the "
        "same as without."
    )


def _why_released(event: JobEvent) -> str:
    reason = event.detail.get("reason", "")
    if reason == GIVING_WAY:
        return ""
    return "its worker was stopped" if reason == SHUTTING_DOWN else "its files were out of reach"


def _queued(progress: Progress) -> JobWords:
    ahead = max(0, (progress.queue_position or 1) - 1)
    if progress.held_back:
        words = "Accepted; as many of yours run already as one person may have at once."
    elif ahead == 0:
        words = "Accepted; it is the next one to start."
    else:
        words = f"Accepted; {ahead} job{'' if ahead == 1 else 's'} before this one."
    if progress.starts_in is None or progress.starts_in < MOMENT:
        return JobWords(words, words)
    return JobWords(f"{words} It starts in about {duration(progress.starts_in)}.", words)


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
