"""State and helpers that the parts of the S3 stub share; see s3_stub.py."""
import time
from urllib.parse import quote

accounts = {"AKIDEXAMPLE": {"secret": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"}}
buckets = {"bucket": {"region": "us-east-1"}}
objects = {"bucket": {}}
state = {"clock": 0, "down": False, "faults": [], "losers": 0, "versions": 0, "without": [],
         "engine": {"if_match": "both", "delete_if_match": "both", "loser": 412, "longest_metadata": 2048}}


class Refusal(Exception):
    """An answer that is an error: status, code, message, and further members and headers."""

    def __init__(self, status, code, message, members=None, headers=None):
        super().__init__(code)
        self.status, self.code, self.message = status, code, message
        self.members, self.headers = members or {}, headers or {}


def now():
    return time.time() + state["clock"]


def encode(text, safe="-_.~"):
    return quote(text.encode("utf-8", "surrogateescape"), safe=safe)
