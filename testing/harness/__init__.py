"""What scripts/crash-matrix and scripts/chaos share: a Kafka of their own, and kcat, which reads what arrived.

Promises: nothing outside a run's own folder is touched, and every process started here ends with the run.
"""

import importlib.machinery
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def load_kafka():
    loader = importlib.machinery.SourceFileLoader("kafka_script", str(ROOT / "scripts" / "kafka"))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    module = importlib.util.module_from_spec(spec)
    sys.dont_write_bytecode = True
    loader.exec_module(module)
    return module


# scripts/kafka, as a module: its wire, its clusters, its Failure.
KAFKA = load_kafka()


def run(command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise KAFKA.Failure(f"{' '.join(map(str, command))}: {done.stderr}")
    return done.stdout


def unsure_rows(log):
    """Rows that a daemon announced, in its log, to be there twice perhaps."""
    return sum(int(rows) for rows in re.findall(r"(\d+) rows? (?:are|is) sent again and may be there twice \(unsure\)", log))
