"""websocat, a process for each connection: see `_clients.py` for how it starts and ends.

It echoes, whatever it is told, and tells nobody what becomes of that.
"""

from __future__ import annotations

import json
import subprocess
import sys

# Of what the mirror gets, so that text stays text.
MIRROR = ("--text-prefix=t", "--binary-prefix=b", "--buffer-size=4000000")

if __name__ == "__main__":
    websocat = sys.argv[1]
    version = subprocess.run([websocat, "--version"], check=True, capture_output=True, text=True).stdout.strip()
    print(json.dumps([None, version]), flush=True)
    started: list[subprocess.Popen[bytes]] = []
    for line in sys.stdin:
        task = json.loads(line)
        command = [websocat, "-q", "--exit-on-eof", *MIRROR, task["url"], "mirror:"]
        command += [f"--protocol={','.join(task['protocols'])}"] if "protocols" in task else []
        started.extend(
            subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for _ in range(task.get("connections", 1))
        )
    for process in started:
        process.kill()
        process.wait()
