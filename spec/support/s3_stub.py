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
  without   names of headers, and of elements of listings, that are left out
  down      true: closes each connection without an answer
  engine    {"if_match": "both" | "quoted" | "unquoted" | "ignored" | "refused", "delete_if_match": the
            same, "loser": 412 or 500 (every second loser), "longest_metadata": bytes of a value}
  faults    [{"do":, "method":, "key": substring, "query": substring, "skip": n, "times": n,
            "probability":, …}], replacing the ones before. A fault does one of
            drop_before, drop_after (the write is applied), status ("status", "code", "retry_after"),
            truncate, wrong_bytes, slow ("seconds"), error_200, kill ("pid", "when": before or after), keep
            (DeleteObjects reports an error for the key)
"""
import base64, calendar, hashlib, hmac, json, os, random, re, signal, socket, sys, threading, time
import xml.etree.ElementTree as ET
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote, unquote, unquote_plus
from xml.sax.saxutils import escape

lock = threading.RLock()
folder = sys.argv[1]
journal = open(os.path.join(folder, "access.log"), "a", buffering=1)
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


# ------------------------------------------------------------------ signatures

def hmac_sha256(key, text):
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def check_time(stamp, scope_date):
    try:
        told = calendar.timegm(time.strptime(stamp, "%Y%m%dT%H%M%SZ"))
    except ValueError:
        raise Refusal(403, "AccessDenied", "AWS authentication requires a valid Date or x-amz-date header")
    if abs(told - now()) > 900:
        raise Refusal(403, "RequestTimeTooSkewed", "The difference between the request time and the current time is too large.",
                      {"RequestTime": stamp, "ServerTime": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now())),
                       "MaxAllowedSkewMilliseconds": 900000})
    if stamp[:8] != scope_date:
        raise Refusal(400, "AuthorizationHeaderMalformed", "The credential's date differs from x-amz-date.")


def check_account(identity, token):
    account = accounts.get(identity)
    if account is None:
        raise Refusal(403, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records.",
                      {"AWSAccessKeyId": identity})
    if account.get("expired"):
        raise Refusal(400, "ExpiredToken", "The provided token has expired.")
    if account.get("token") != token:
        raise Refusal(400, "InvalidToken", "The provided token is malformed or otherwise invalid.")
    return account


def canonical_request(request, names):
    pairs = []
    for part in request.query.split("&") if request.query else []:
        name, _, value = part.partition("=")
        pairs.append((encode(unquote_plus(name)), encode(unquote_plus(value))))
    lines = [request.command, encode(unquote(request.raw_path), "/-_.~"),
             "&".join("=".join(pair) for pair in sorted(pairs))]
    for name in names:
        values = request.headers.get_all(name) or []
        lines.append(name + ":" + ",".join(" ".join(value.split()) for value in values))
    lines += ["", ";".join(names), request.headers.get("x-amz-content-sha256", "")]
    return "\n".join(lines)


def check_signature(request, bucket):
    """Raise Refusal unless the request is signed by a known account, or the bucket is public."""
    authorization = request.headers.get("authorization")
    if authorization is None:
        if bucket and bucket.get("public") and request.command in ("GET", "HEAD"):
            return
        raise Refusal(403, "AccessDenied", "Access Denied")
    match = re.fullmatch(r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/s3/aws4_request, *"
                         r"SignedHeaders=([^,]+), *Signature=([0-9a-f]{64})", authorization)
    if not match:
        raise Refusal(400, "AuthorizationHeaderMalformed", "The authorization header is malformed.")
    identity, date, region, names, signature = match.groups()
    names = names.split(";")
    account = check_account(identity, request.headers.get("x-amz-security-token"))
    expected = (bucket or {}).get("region", "us-east-1")
    if region != expected:
        raise Refusal(400, "AuthorizationHeaderMalformed", f"The authorization header is malformed; the region '{region}' "
                      f"is wrong; expecting '{expected}'", {"Region": expected}, {"x-amz-bucket-region": expected})
    stamp = request.headers.get("x-amz-date", "")
    check_time(stamp, date)
    present = {name.lower() for name in request.headers.keys()}
    if names != sorted(names) or "host" not in names or any(n.startswith("x-amz-") and n not in names for n in present):
        raise Refusal(403, "AccessDenied", "There were headers present in the request which were not signed")
    told = request.headers.get("x-amz-content-sha256")
    if told is None or not re.fullmatch("[0-9a-f]{64}", told):
        raise Refusal(400, "InvalidRequest", "Missing required header for this request: x-amz-content-sha256")
    text = "\n".join(["AWS4-HMAC-SHA256", stamp, f"{date}/{region}/s3/aws4_request",
                      hashlib.sha256(canonical_request(request, names).encode()).hexdigest()])
    key = ("AWS4" + account["secret"]).encode()
    for part in (date, region, "s3", "aws4_request"):
        key = hmac_sha256(key, part)
    if not hmac.compare_digest(hmac_sha256(key, text).hex(), signature):
        raise Refusal(403, "SignatureDoesNotMatch", "The request signature we calculated does not match the signature you "
                      "provided. Check your key and signing method.", {"StringToSign": text})
    if hashlib.sha256(request.body).hexdigest() != told:
        raise Refusal(400, "XAmzContentSHA256Mismatch", "The provided 'x-amz-content-sha256' header does not match what was "
                      "computed.", {"ClientComputedContentSHA256": told})


# --------------------------------------------------------------------- objects

def make_object(body, metadata=None, content_type="binary/octet-stream", age=0, archived=False):
    state["versions"] += 1
    return {"body": body, "etag": '"' + hashlib.md5(body).hexdigest() + '"', "modified": now() - age, "metadata": metadata or {},
            "type": content_type, "version": f"v{state['versions']}", "archived": archived}


def store(bucket, key, entry):
    versions = objects[bucket].setdefault(key, [])
    entry["versioned"] = buckets[bucket].get("versioned", False)
    if not entry["versioned"]:
        versions.clear()
    versions.append(entry)


def current(bucket, key, version=None):
    versions = objects[bucket].get(key) or []
    if version:
        versions = [entry for entry in versions if entry["version"] == version]
        if not versions:
            raise Refusal(404, "NoSuchVersion", "The specified version does not exist.", {"Key": key, "VersionId": version})
    return versions[-1] if versions and versions[-1]["body"] is not None else None


def required(bucket, key, version=None):
    entry = current(bucket, key, version)
    if entry is None:
        raise Refusal(404, "NoSuchKey", "The specified key does not exist.", {"Key": key})
    return entry


def same_etag(told, etag, how="both"):
    told = [part.strip() for part in told.split(",")]
    bare = etag.strip('"')
    return "*" in told or how != "unquoted" and etag in told or how != "quoted" and bare in told


def lost(code="PreconditionFailed"):
    state["losers"] += 1
    if state["engine"]["loser"] == 500 and state["losers"] % 2 == 0:
        raise Refusal(500, "UnknownError", "")  # as Ceph's gateway does it
    raise Refusal(412, code, "At least one of the pre-conditions you specified did not hold")


def check_write(request, bucket, key, rule):
    """Check the conditional headers of a write under one of the engine's rules."""
    if_match, if_none = request.headers.get("if-match"), request.headers.get("if-none-match")
    if rule == "refused" and (if_match or if_none):
        raise Refusal(501, "NotImplemented", "A header you provided implies functionality that is not implemented.")
    if rule == "ignored":
        return
    entry = current(bucket, key)
    if if_none and if_none != "*":
        raise Refusal(501, "NotImplemented", "If-None-Match takes * only.")
    if if_none and entry:
        lost()
    if if_match and entry is None:
        raise Refusal(404, "NoSuchKey", "The specified key does not exist.", {"Key": key})
    if if_match and not same_etag(if_match, entry["etag"], rule):
        lost()


# ---------------------------------------------------------------------- answers

def xml(name, inner):
    return (f'<?xml version="1.0" encoding="UTF-8"?>\n<{name} xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{inner}</{name}>').encode()


def iso(seconds):
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(seconds))


def version_of(entry):
    return {"x-amz-version-id": entry["version"]} if entry["versioned"] else {}


def head_of(entry):
    headers = {"ETag": entry["etag"], "Last-Modified": formatdate(entry["modified"], usegmt=True), "Content-Type": entry["type"],
               "Accept-Ranges": "bytes"}
    headers.update(version_of(entry))
    headers.update({"x-amz-meta-" + name: value for name, value in entry["metadata"].items()})
    return headers


def list_objects(bucket, arguments):
    prefix, delimiter = arguments.get("prefix", ""), arguments.get("delimiter", "")
    after, limit = arguments.get("start-after", ""), min(int(arguments.get("max-keys", 1000)), 1000)
    if arguments.get("continuation-token"):
        after = base64.b64decode(arguments["continuation-token"]).decode("utf-8", "surrogateescape")
    name = (lambda key: encode(key, "/-_.~")) if arguments.get("encoding-type") == "url" else escape
    out, groups, count, last, truncated = [], [], 0, "", False
    keys = sorted((key for key in objects[bucket] if key.startswith(prefix)), key=lambda key: key.encode("utf-8", "surrogateescape"))
    for key in keys:
        entry = current(bucket, key)
        cut = key.find(delimiter, len(prefix)) if delimiter else -1
        group = key[:cut + len(delimiter)] if cut >= 0 else None
        if entry is None or (group or key) <= after or group in groups:
            continue
        if count == limit:
            truncated = True
            break
        count, last = count + 1, group or key
        if group:
            groups.append(group)
        else:
            out.append(f"<Contents><Key>{name(key)}</Key><LastModified>{iso(entry['modified'])}</LastModified><ETag>"
                       f"{escape(entry['etag'], {chr(34): '&quot;'})}</ETag><Size>{len(entry['body'])}</Size>"
                       f"<StorageClass>{'GLACIER' if entry['archived'] else 'STANDARD'}</StorageClass></Contents>")
    token = base64.b64encode(last.encode("utf-8", "surrogateescape")).decode()
    inner = (f"<Name>{bucket}</Name><Prefix>{name(prefix)}</Prefix><KeyCount>{count}</KeyCount><MaxKeys>{limit}</MaxKeys>"
             f"<IsTruncated>{str(truncated).lower()}</IsTruncated>" + "".join(out)
             + "".join(f"<CommonPrefixes><Prefix>{name(group)}</Prefix></CommonPrefixes>" for group in groups)
             + (f"<NextContinuationToken>{token}</NextContinuationToken>" if truncated else "")
             + ("<EncodingType>url</EncodingType>" if arguments.get("encoding-type") else ""))
    for element in state["without"]:
        inner = re.sub(f"<{element.replace('-', '')}>.*?</{element.replace('-', '')}>", "", inner)
    return 200, {"Content-Type": "application/xml"}, xml("ListBucketResult", inner)


def delete_objects(request, bucket):
    md5 = request.headers.get("content-md5")
    if md5 is None and not any(name.lower().startswith("x-amz-checksum-") for name in request.headers.keys()):
        raise Refusal(400, "InvalidRequest", "Missing required header for this request: Content-MD5")
    if md5 and base64.b64encode(hashlib.md5(request.body).digest()).decode() != md5:
        raise Refusal(400, "BadDigest", "The Content-MD5 you specified did not match what we received.")
    out, quiet = [], False
    document = ET.fromstring(request.body)
    for part in document:
        tag = part.tag.rpartition("}")[2]
        if tag == "Quiet":
            quiet = part.text == "true"
        if tag == "Object":
            key = "".join(child.text or "" for child in part if child.tag.endswith("Key"))
            for fault in state["faults"]:
                if fault["do"] == "keep" and fault.get("key", "") in key:
                    out.append(f"<Error><Key>{escape(key)}</Key><Code>AccessDenied</Code><Message>Access Denied</Message></Error>")
                    break
            else:
                remove(bucket, key)
                out.append("" if quiet else f"<Deleted><Key>{escape(key)}</Key></Deleted>")
    if len(document.findall("{*}Object")) > 1000:
        raise Refusal(400, "MalformedXML", "The XML you provided was not well-formed.")
    return 200, {"Content-Type": "application/xml"}, xml("DeleteResult", "".join(out))


def remove(bucket, key):
    if buckets[bucket].get("versioned") and objects[bucket].get(key):
        objects[bucket][key].append({**make_object(b""), "body": None, "versioned": True})
    else:
        objects[bucket].pop(key, None)


def read_object(request, bucket, key, arguments):
    entry = required(bucket, key, arguments.get("versionId"))
    headers, body, status = head_of(entry), entry["body"], 200
    if request.headers.get("if-match") and not same_etag(request.headers["if-match"], entry["etag"]):
        raise Refusal(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold")
    if request.headers.get("if-none-match") and same_etag(request.headers["if-none-match"], entry["etag"]):
        return 304, headers, b""
    if entry["archived"] and request.command == "GET":
        raise Refusal(403, "InvalidObjectState", "The operation is not valid for the object's storage class",
                      {"StorageClass": "GLACIER"})
    span = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
    if_range = request.headers.get("if-range")
    if span and (if_range is None or same_etag(if_range, entry["etag"])):
        first = int(span[1]) if span[1] else max(0, len(body) - int(span[2]))
        last = min(int(span[2]), len(body) - 1) if span[1] and span[2] else len(body) - 1
        if first >= len(body):
            raise Refusal(416, "InvalidRange", "The requested range is not satisfiable")
        headers["Content-Range"] = f"bytes {first}-{last}/{len(body)}"
        status, body = 206, body[first:last + 1]
    return status, headers, body


def write_object(request, bucket, key):
    source = request.headers.get("x-amz-copy-source")
    metadata = {name[11:].lower(): value for name, value in request.headers.items() if name.lower().startswith("x-amz-meta-")}
    kind = request.headers.get("content-type", "binary/octet-stream")
    if any(len(value) > state["engine"]["longest_metadata"] for value in metadata.values()):
        raise Refusal(500, "InternalError", "We encountered an internal error. Please try again.")
    if sum(len(name) + len(value) for name, value in metadata.items()) > 2048:
        raise Refusal(400, "MetadataTooLarge", "Your metadata headers exceed the maximum allowed metadata size.")
    check_write(request, bucket, key, state["engine"]["if_match"])
    if source is None:
        entry = make_object(request.body, metadata, kind)
        store(bucket, key, entry)
        return 200, {"ETag": entry["etag"], **version_of(entry)}, b""
    path, _, version = source.partition("?versionId=")
    from_bucket, _, from_key = unquote(path, errors="surrogateescape").lstrip("/").partition("/")
    old = required(from_bucket, from_key, version or None)
    if_match = request.headers.get("x-amz-copy-source-if-match")
    if if_match and not same_etag(if_match, old["etag"]):
        raise Refusal(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold")
    replace = request.headers.get("x-amz-metadata-directive") == "REPLACE"
    if (from_bucket, from_key) == (bucket, key) and not replace:
        raise Refusal(400, "InvalidRequest", "This copy request is illegal because it is trying to copy an object to itself "
                      "without changing the object's metadata, storage class, website redirect location or encryption attributes.")
    entry = make_object(old["body"], metadata if replace else old["metadata"], kind if replace else old["type"])
    store(bucket, key, entry)
    return 200, {"Content-Type": "application/xml"}, xml("CopyObjectResult",
        f"<LastModified>{iso(entry['modified'])}</LastModified><ETag>{escape(entry['etag'])}</ETag>")


def perform(request, bucket, key, arguments):
    """Answer a request that is signed well: status, headers, body."""
    if bucket not in buckets:
        raise Refusal(404, "NoSuchBucket", "The specified bucket does not exist", {"BucketName": bucket})
    if len(key.encode("utf-8", "surrogateescape")) > 1024:
        raise Refusal(400, "KeyTooLongError", "Your key is too long")
    method = request.command
    if key == "":
        if method == "GET" and "location" in arguments:
            return 200, {"Content-Type": "application/xml"}, xml("LocationConstraint", buckets[bucket].get("region", ""))
        if method == "GET":
            return list_objects(bucket, arguments)
        if method == "HEAD":
            return 200, {"x-amz-bucket-region": buckets[bucket].get("region", "us-east-1")}, b""
        if method == "POST" and "delete" in arguments:
            return delete_objects(request, bucket)
    elif method in ("GET", "HEAD"):
        return read_object(request, bucket, key, arguments)
    elif method == "PUT":
        return write_object(request, bucket, key)
    elif method == "DELETE":
        check_write(request, bucket, key, state["engine"]["delete_if_match"])
        remove(bucket, key)
        return 204, {}, b""
    raise Refusal(405, "MethodNotAllowed", "The specified method is not allowed against this resource.")


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
        self.send_header("Date", formatdate(now(), usegmt=True))
        self.send_header("x-amz-request-id", "STUB0000")
        for name, value in headers.items():
            if name in state["without"]:
                continue
            self.send_header(name, str(value).encode("utf-8", "surrogateescape").decode("latin-1"))
        if status not in (204, 304):
            self.send_header("Content-Length", str(len(body) if size is None else size))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.wfile.flush()

    def refuse(self, refusal):
        members = "".join(f"<{name}>{escape(str(value))}</{name}>" for name, value in refusal.members.items())
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
                if do == "status":
                    headers = {"Retry-After": fault["retry_after"]} if "retry_after" in fault else {}
                    raise Refusal(fault["status"], fault["code"], "Fault of the stub.", None, headers)
                if do == "error_200":
                    status, headers, body = 200, {}, (b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>InternalError</Code>'
                                                      b"<Message>We encountered an internal error. Please try again.</Message></Error>")
                else:
                    status, headers, body = perform(self, name, key, arguments)
                self.note(status, do)
        except Refusal as refusal:
            self.note(refusal.status, refusal.code)
            if do not in ("kill", "drop_after"):
                return self.refuse(refusal)
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
