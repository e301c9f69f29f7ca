"""Objects of the S3 stub, and the answers about them."""
import base64, hashlib, re, time
import xml.etree.ElementTree as ET
from email.utils import formatdate
from urllib.parse import unquote
from xml.sax.saxutils import escape

from s3_state import Refusal, buckets, encode, now, objects, state


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
    if "EncodingType" in state["without"]:
        arguments.pop("encoding-type", None)  # as a server that does not know it
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
                    name = "" if fault.get("nameless") else f"<Key>{escape(key)}</Key>"
                    out.append(f"<Error>{name}<Code>{fault.get('code', 'AccessDenied')}</Code>"
                               f"<Message>{fault.get('message', 'Access Denied')}</Message></Error>")
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
