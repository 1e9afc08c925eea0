"""Processes of a run. Promises: none of them outlives it. Does not know: what they do."""

import subprocess
import threading


class Children:
    def __init__(self):
        self.running, self.lock = [], threading.Lock()

    def spawn(self, command, base, environment=None, **more):
        """A child with its output in files `base`.out and `base`.err, unless said otherwise."""
        with open(base.with_suffix(".out"), "wb") as out, open(base.with_suffix(".err"), "wb") as err:
            pipes = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": err, **more}
            child = subprocess.Popen([str(part) for part in command], env=environment, **pipes)
        with self.lock:
            self.running = [other for other in self.running if other[1].poll() is None] + [(base, child)]
        return child

    def end(self, folder):
        """Ends what was started in a folder and has not ended by itself."""
        with self.lock:
            for base, child in self.running:
                if folder in base.parents and child.poll() is None:
                    child.kill()
                    child.wait()
