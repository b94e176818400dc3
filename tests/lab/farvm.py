# SPDX-License-Identifier: MIT
"""`godwit run` on the other laboratory host, with the few handles that the tests need."""
import json
import re

from far import Far, far
from gwlab import LabError
from gwlab.vm import wait_until


class FarVm:
    def __init__(self, name, *options):
        self.name, self._monitor = name, f"/tmp/{name}.qmp"
        self._console = f"/tmp/{name}.console"
        far("rm", "-f", self._console)
        self._run = Far("godwit", "run", "--name", name, "--qmp", self._monitor,
                        "--console", f"file:{self._console}", *options)

    def _ask(self, question):
        """The monitor's answer; None where there is none yet."""
        if not self._run.is_alive():
            raise LabError(f"{self.name} ended with {self._run.status}: {self._run.output}")
        answer = Far("godwit", "qmp", self._monitor, question)
        status, output = answer.wait(), answer.output
        answer.close()
        return json.loads(output) if status == 0 else None

    def status(self):
        answer = self._ask("query-status")
        return answer and answer["status"]

    def migration(self):
        return self._ask("query-migrate")

    def console(self):
        return far("cat", self._console, check=False)

    def wait_console(self, pattern, timeout):
        """As Vm.wait_console, but looks through the whole text."""
        def look():
            found = re.search(pattern, self.console())
            if not found and not self._run.is_alive():
                raise LabError(f"{self.name} ended with {self._run.status} before '{pattern}' came: "
                               f"{self._run.output}\n{self.console()[-2000:]}")
            return found
        wait_until(f"'{pattern}' on the console of {self.name}", look, timeout, step=0.5)

    def migrate(self, uri, *options, check=True, timeout=600):
        """Moves the guest; returns the summary object, or with check=False the text of an error."""
        move = Far("godwit", "migrate", self._monitor, uri, "--json", *options)
        status, output = move.wait(timeout), move.output
        move.close()
        if not check:
            assert status != 0, f"the move must fail and did not: {output}"
            return output
        assert status == 0, output
        return json.loads(output.strip().splitlines()[-1])

    def quit(self):
        far("godwit", "quit", self._monitor)
        return self._run.wait()

    def close(self):
        self._run.close()
