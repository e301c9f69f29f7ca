"""A server of the S3 protocol for specs: s3_stub.py FOLDER. It prints its port and serves on
the loopback address until killed. Objects live in memory. Each request becomes a line of
FOLDER/access.log: METHOD /path?query STATUS CODE [conditional headers]. It checks signatures
by its own implementation of Signature Version 4.

POST /_control takes a JSON object (unsigned), GET /_control returns the state:
  accounts  {access key: {"secret":, "token":, "expired": true}}
  buckets   {name: {"region":, "public": true, "versioned": true, "redirect": "http://host:port"} or null}
  put       [{"bucket":, "key":, "text":, "age": seconds, "metadata": {}, "archived": true}]
  age       {"bucket":, "prefix":, "seconds":}     makes objects older
  fill      {"bucket":, "prefix":, "count":, "text":}
  clock     seconds that the server's clock is ahead
  without   names of headers, and of elements of listings, that are left out. EncodingType: keys are not encoded
  down      true: closes each connection without an answer
  engine    {"if_match": "both" | "quoted" | "unquoted" | "ignored" | "refused", "delete_if_match": the
            same, "loser": 412 or 500 (every second loser), "longest_metadata": bytes of a value}
  faults    [{"do":, "method":, "key": substring, "query": substring, "skip": n, "times": n,
            "probability":, …}], replacing the ones before. A fault does one of
            drop_before, drop_after (the write is applied), status ("status", "code", "retry_after", "message"; "raw": the body,
            such as a proxy's page), status_after (the same, and the request is carried out before),
            truncate, wrong_bytes, slow ("seconds"), error_200, kill ("pid", "when": before or after), keep
            (DeleteObjects reports an error, with "code" and "message", for the key, which it does not name if it is "nameless"), endless (a page of
            a list comes again and again)
"""
import json, os, random, re, signal, socket, sys, threading, time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, unquote_plus
from xml.sax.saxutils import escape

sys.dont_write_bytecode = True
from s3_objects import make_object, perform, store
from s3_signatures import check_signature
from s3_state import Refusal, accounts, buckets, now, objects, state

lock = threading.RLock()
folder = sys.argv[1]
journal = open(os.path.join(folder, "access.log"), "a", buffering=1)


# ---------------------------------------------------------------------- control

def control(orders):
    accounts.update(orders.get("accounts", {}))
    for name, bucket in orders.get("buckets", {}).items():
        if bucket is None:
            buckets.pop(name, None)
        else:
            buckets[name] = bucket
            objects.setdefault(name, {})
    for item in orders.get("put", []):
        store(item["bucket"], item["key"], make_object(item["text"].encode("utf-8"), item.get("metadata"), age=item.get("age", 0),
                                                       archived=item.get("archived", False)))
    for item in [orders["age"]] if "age" in orders else []:
        for key, versions in objects[item["bucket"]].items():
            for entry in versions if key.startswith(item.get("prefix", "")) else []:
                entry["modified"] -= item["seconds"]
    for item in [orders["fill"]] if "fill" in orders else []:
        for i in range(item["count"]):
            store(item["bucket"], f"{item['prefix']}{i:05}", make_object(item["text"].encode()))
    state["engine"].update(orders.get("engine", {}))
    for name in ("clock", "down", "faults", "without"):
        state[name] = orders.get(name, state[name])


def fault_of(request, key):
    """The fault for this request, counted down, or an empty table."""
    for fault in state["faults"]:
        if (fault.get("method", request.command) == request.command and fault.get("key", "") in key
                and fault.get("query", "") in request.query and fault.get("times", 1) > 0 and fault["do"] != "keep"):
            if fault.get("skip", 0) > 0:
                fault["skip"] -= 1
            elif "probability" not in fault:
                fault["times"] = fault.get("times", 1) - 1
                return fault
            elif random.random() < fault["probability"]:
                return fault
    return {"do": ""}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def log_message(self, *_):
        pass

    def drop(self):
        self.close_connection = True
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def note(self, status, code=""):
        marks = [f"{name}={self.headers[name]}" for name in ("range", "if-match", "if-none-match", "x-amz-copy-source") if self.headers.get(name)]
        journal.write(" ".join([self.command, self.requestline.split()[1], str(status), code or "-"] + marks) + "\n")

    def reply(self, status, headers, body, size=None):
        self.send_response_only(status)
        self.send_header("x-amz-request-id", "STUB0000")
        for name, value in {"Date": formatdate(now(), usegmt=True), **headers}.items():
            if name in state["without"]:
                continue
            self.send_header(name, str(value).encode("utf-8", "surrogateescape").decode("latin-1"))
        if status not in (204, 304):
            self.send_header("Content-Length", str(len(body) if size is None else size))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.wfile.flush()

    def refuse(self, refusal, raw=None):
        members = "".join(f"<{name}>{escape(str(value))}</{name}>" for name, value in refusal.members.items())
        if raw:
            return self.reply(refusal.status, {"Content-Type": "application/xml"}, raw.encode())
        self.reply(refusal.status, {"Content-Type": "application/xml", **refusal.headers},
                   f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{refusal.code}</Code><Message>{escape(refusal.message)}'
                   f"</Message>{members}<RequestId>STUB0000</RequestId></Error>".encode())

    def split(self):
        """The request's bucket and key; bucket.localhost addresses a bucket in virtual style."""
        path = unquote(self.raw_path, errors="surrogateescape")
        host = re.fullmatch(r"(.+)\.localhost(:\d+)?", self.headers.get("host", ""))
        if host:
            return host[1], path[1:]
        bucket, _, key = path[1:].partition("/")
        return bucket, key

    def handle_one(self):
        self.raw_path, _, self.query = self.requestline.split()[1].partition("?")
        if self.command == "PUT" and self.headers.get("content-length") is None:
            self.close_connection = True
            return self.refuse(Refusal(411, "MissingContentLength", "You must provide the Content-Length HTTP header."))
        if self.headers.get("expect", "").lower() == "100-continue":
            self.wfile.flush()
        self.body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.raw_path == "/_control":
            with lock:
                control(json.loads(self.body or b"{}"))
                text = json.dumps({"objects": {name: {key: {"size": len(v[-1]["body"] or b""), "metadata": v[-1]["metadata"],
                    "age": now() - v[-1]["modified"]} for key, v in content.items()} for name, content in objects.items()}})
            return self.reply(200, {"Content-Type": "application/json"}, text.encode())
        if state["down"]:
            return self.drop()
        arguments = {unquote_plus(part.partition("=")[0]): unquote_plus(part.partition("=")[2], errors="surrogateescape")
                     for part in self.query.split("&") if part}
        name, key = self.split()
        with lock:
            fault = fault_of(self, key)
        self.answer(fault, name, key, arguments)

    def answer(self, fault, name, key, arguments):
        do = fault["do"]
        if do == "slow":
            time.sleep(fault["seconds"])
        if do == "kill" and fault.get("when") != "after":
            os.kill(fault["pid"], signal.SIGKILL)
        if do == "drop_before" or do == "kill" and fault.get("when") != "after":
            self.note(0, do)
            return self.drop()
        try:
            with lock:
                bucket = buckets.get(name)
                if bucket and bucket.get("redirect"):
                    raise Refusal(307, "TemporaryRedirect", "Please re-send this request to the specified temporary endpoint.",
                                  {"Endpoint": bucket["redirect"], "Bucket": name},
                                  {"Location": bucket["redirect"] + self.requestline.split()[1], "x-amz-bucket-region": bucket["region"]})
                check_signature(self, bucket)
                if do == "status_after":
                    perform(self, name, key, arguments)
                if do in ("status", "status_after"):
                    headers = {"Retry-After": fault["retry_after"]} if "retry_after" in fault else {}
                    raise Refusal(fault["status"], fault.get("code", ""), fault.get("message", "Fault of the stub."), None, headers)
                if do == "error_200":
                    status, headers, body = 200, {}, (b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>InternalError</Code>'
                                                      b"<Message>We encountered an internal error. Please try again.</Message></Error>")
                else:
                    if do == "endless":
                        arguments.pop("continuation-token", None)
                    status, headers, body = perform(self, name, key, arguments)
                    if do == "endless":
                        token = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{random.random()}</NextContinuationToken>"
                        body = body.replace(b"<IsTruncated>false</IsTruncated>", token.encode())
                self.note(status, do)
        except Refusal as refusal:
            self.note(refusal.status, refusal.code)
            if do not in ("kill", "drop_after"):
                return self.refuse(refusal, fault.get("raw"))
        if do == "kill":
            os.kill(fault["pid"], signal.SIGKILL)
        if do in ("drop_after", "kill"):
            return self.drop()
        if do == "wrong_bytes":
            body = bytes(byte ^ 1 for byte in body)
        self.reply(status, headers, body[:len(body) // 2] if do == "truncate" else body, len(body))
        if do == "truncate":
            self.drop()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_one


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


server = Server(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
