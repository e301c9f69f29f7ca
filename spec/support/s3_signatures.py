"""Signatures of the S3 stub: Signature Version 4, implemented independently of theaterref."""
import calendar, hashlib, hmac, re, time
from urllib.parse import unquote, unquote_plus

from s3_state import Refusal, accounts, encode, now


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
