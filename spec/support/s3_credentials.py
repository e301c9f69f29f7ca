"""The services that tell credentials of a machine, for specs: s3_credentials.py FOLDER. It prints its
port and serves on the loopback address until killed. Each request becomes a line of FOLDER/log.

  /latest/…       instance metadata v2, with a token and the role "worker"
  /container      a container's service, which wants "Authorization: let-me-in"
  /404, /500      that status
  POST /          Amazon's STS, for a web identity token "pod-token"
Expiration is FOLDER/seconds, by default 3600, from now. While there is a FOLDER/slow, no answer comes for 20 seconds. All are the credentials of the stub of S3.
"""
import json, os, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

folder = sys.argv[1]
ID, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"


def expiration():
    path = os.path.join(folder, "seconds")
    seconds = int(open(path).read()) if os.path.exists(path) else 3600
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, text, status=200):
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def handle_one(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
        with open(os.path.join(folder, "log"), "a") as log:
            log.write(self.command + " " + self.path + "\n")
        if os.path.exists(os.path.join(folder, "slow")):
            time.sleep(20)
        document = json.dumps({"Code": "Success", "AccessKeyId": ID, "SecretAccessKey": SECRET, "Token": "", "Expiration": expiration()})
        roles = "/latest/meta-data/iam/security-credentials/"
        if self.path == "/latest/api/token" and self.command == "PUT" and self.headers.get("x-aws-ec2-metadata-token-ttl-seconds"):
            return self.answer("machine-token")
        if self.path.startswith(roles) and self.headers.get("x-aws-ec2-metadata-token") == "machine-token":
            return self.answer("worker\n" if self.path == roles else document)
        if self.path == "/container" and self.headers.get("authorization") == "let-me-in":
            return self.answer(document)
        if self.path == "/" and self.command == "POST":
            form = {name: values[0] for name, values in parse_qs(body).items()}
            if form.get("WebIdentityToken") == "pod-token" and form.get("RoleArn") == "arn:aws:iam::1:role/worker":
                return self.answer("<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>" + ID
                    + "</AccessKeyId><SecretAccessKey>" + SECRET + "</SecretAccessKey><Expiration>" + expiration()
                    + "</Expiration></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>")
        return self.answer("", int(self.path[1:]) if self.path in ("/404", "/500") else 403)

    do_GET = do_PUT = do_POST = handle_one


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
print(server.server_address[1], flush=True)
server.serve_forever()
