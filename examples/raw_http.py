"""Replicate without a client library: create, poll until the end, download.

python raw_http.py photo.jpg restored.png
"""

import base64
import json
import os
import sys
import time
import urllib.request

API = os.environ.get("REPLICATE_BASE_URL", "https://api.replicate.com/v1")
VERSION = "9283608cc6b7be6b65a8e44983db012355fde4132009bf99d976b2f0896856a3"


def call(method, url, body=None):
    request = urllib.request.Request(url, method=method, data=json.dumps(body).encode() if body else None)
    request.add_header("Authorization", f"Bearer {os.environ['REPLICATE_API_TOKEN']}")
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request) as response:
        return json.load(response)


def main(photo, restored):
    with open(photo, "rb") as file:
        img = "data:image/jpeg;base64," + base64.b64encode(file.read()).decode()
    prediction = call("POST", f"{API}/predictions", {"version": VERSION, "input": {"img": img, "scale": 2}})
    while prediction["status"] not in ("succeeded", "failed", "canceled"):
        time.sleep(0.5)
        prediction = call("GET", prediction["urls"]["get"])
        print(prediction["status"])
    if prediction["status"] != "succeeded":
        sys.exit(prediction["error"])
    urllib.request.urlretrieve(prediction["output"], restored)


if __name__ == "__main__":
    main(*sys.argv[1:])
