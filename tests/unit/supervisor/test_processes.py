"""Children are started whatever became of the fork server's socket; a failed start tells its child to end."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys

from service.supervisor.processes import Child


class Dying:
    """A fork server that takes the child's end of the control socket, and dies over it."""

    async def start(self, target, control, *args):
        self.childs_end = control.dup()
        raise EOFError


def test_the_control_socket_of_a_failed_start_is_closed():
    server = Dying()
    raised = []
    try:
        asyncio.run(Child("engine", lambda frame: None).start(server, print))
    except EOFError as error:
        raised.append(error)  # its frames hold what was not closed
    assert raised
    server.childs_end.settimeout(10)
    assert server.childs_end.recv(1) == b""
    server.childs_end.close()


#: In a process of its own, since there is one fork server a process. Each child ends with 7.
STARTS = """\
import asyncio, json, multiprocessing, os, shutil, sys
from pathlib import Path
from service.supervisor.processes import ForkServer

async def start(server):
    process = await server.start(os._exit, 7)
    process.join(60)
    return process.exitcode

async def main():
    folder = Path(sys.argv[1]) / "gradless-x"
    server = ForkServer(folder)
    multiprocessing.set_forkserver_preload([])  # torch takes seconds, and no child here needs it
    told = [await start(server)]
    first = server.pid
    shutil.rmtree(folder)
    told += [await start(server), server.pid != first, not Path("/proc", str(first)).exists()]
    for socket in folder.iterdir():
        socket.unlink()
    told += [await start(server), oct(folder.stat().st_mode)]
    folder.chmod(0o777)
    try:
        await start(server)
    except PermissionError:
        told.append("refused")
    server.stop()
    print(json.dumps(told))

asyncio.run(main())
"""


def test_a_child_is_started_though_the_folder_or_the_socket_is_gone_but_not_in_a_strangers(short_path):
    done = subprocess.run([sys.executable, "-c", STARTS, short_path], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [7, 7, True, True, 7, "0o40700", "refused"]
