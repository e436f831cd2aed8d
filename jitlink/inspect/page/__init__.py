"""The report page: a link graph at all stages of its link, in one file for a browser."""

from jitlink.inspect.page.report import report, write_report

__all__ = ["report", "write_report"]
