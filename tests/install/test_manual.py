#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Do sardine(1), sardine-config(5) and the bash completion tell what the command does? What `sardine VERB --help` and
`sardine run --dry-run` show is compared with them, verb by verb, option by option, part by part."""
import json
import pathlib
import re
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "vm"))
import sardine_test  # noqa: E402
from sardine_test import ROOT, SardineTest  # noqa: E402

COMMAND_PAGE = ROOT / "docs/man/sardine.1.in"
CONFIG_PAGE = ROOT / "docs/man/sardine-config.5.in"
COMPLETION = ROOT / "dist/completion.bash"
# Options of `run` that make every list and device of the configuration show its parts. A device that is missing here is
# found by test_samples.
SAMPLES = ("--disk", "path=a", "--net", "tap=a", "--vsock", "cid=3,path=a")
NOT_IN_CONFIG = {"config", "dry-run", "json"}
REQUIRED = {"name", "kernel"}


def help_options(text):
    """{option: (letter or None, argument or None)} of a verb's --help, but for those that every verb has."""
    found = re.findall(r"^ {2}(?: {4}|-(\w), )--([a-z-]+)(?:=(\S+))?", text, re.M)
    return {name: (letter or None, arg or None) for letter, name, arg in found if name not in ("help", "usage")}


def parts(arg):
    """The names in an option's argument: path= and ro of "path=FILE[,ro]"; the words of "on|off"."""
    named = set(re.findall(r"(?:^|[\[,|])([a-z][a-z-]*)=", arg))
    flags = set(re.findall(r"\[,([a-z][a-z-]*)\]", arg))
    choices = {w for w in arg.split("|") if re.fullmatch("[a-z]+", w)}
    return named, flags, choices


def man_sections(text):
    """{verb: its part of the section VERBS}"""
    verbs = text.split("\n.Sh VERBS\n")[1].split("\n.Sh ")[0]
    return {head.strip(): body for head, _, body in (s.partition("\n") for s in verbs.split(".Ss ")[1:])}


def man_options(section):
    """{option: (letter or None, has an argument, its line)}"""
    found = {}
    for line in re.findall(r"^\.It Fl .*$", section, re.M):
        m = re.match(r"\.It (?:Fl (\w) , )?Fl -([a-z-]+)( Ns = Ns )?", line)
        assert m, f"{COMMAND_PAGE.name}: {line}: not in the form of the others"
        found[m[2]] = (m[1], bool(m[3]), line)
    return found


def config_keys(text):
    """{key or key.part: default as JSON, or None when required} in sardine-config(5)."""
    found, stack, last = {}, [], None
    for line in text.split("\n.Sh KEYS\n")[1].split("\n.Sh ")[0].splitlines():
        if line.startswith(".Bl"):
            stack.append(last)
        elif line.startswith(".El"):
            last = stack.pop()
        elif line.startswith(".It"):
            m = re.match(r"\.It Cm (\w+) Pq (.*?) , (?:required|default Li (.*))$", line)
            assert m, f"{CONFIG_PAGE.name}: {line}: not in the form of the others"
            last = m[1]
            path = ".".join([k for k in stack if k] + [last])
            found[path] = None if m[3] is None else m[3].replace(r"\(dq", '"')
    return found


def shown_keys(config, prefix=""):
    """The same of what --dry-run shows."""
    found = {}
    for key, value in config.items():
        found[prefix + key] = value
        item = value[0] if isinstance(value, list) and value else value
        if isinstance(item, dict):
            found.update(shown_keys(item, f"{prefix}{key}."))
    return found


class Manual(SardineTest):
    def setUp(self):
        super().setUp()
        shown = self.sardine("--help").stdout
        self.verbs = re.findall(r"^  ([a-z]+) +\S", shown, re.M)
        self.options = {verb: help_options(self.sardine(verb, "--help").stdout) for verb in self.verbs}
        self.command_page = COMMAND_PAGE.read_text()
        self.sections = man_sections(self.command_page)
        self.config_page = config_keys(CONFIG_PAGE.read_text())
        (self.dir / "afile").touch()
        (self.dir / "afolder").mkdir()

    def dry_run(self, *args):
        done = self.sardine("run", "--name", "x", "--kernel", "k", *args, "--dry-run")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return json.loads(done.stdout)

    def complete(self, *words):
        """What the completion offers for the last of the words."""
        script = ('source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _sardine; '
                  '((${#COMPREPLY[@]})) && printf "%s\\n" "${COMPREPLY[@]}"; exit 0')
        done = subprocess.run(["bash", "-uc", script, "bash", str(COMPLETION), "sardine", *words], env=self.env, cwd=self.dir,
                              capture_output=True, text=True, check=False)
        self.assertEqual((done.returncode, done.stderr), (0, ""), words)
        return set(done.stdout.splitlines())

    def value_words(self, option):
        return self.complete("run", "--" + option, "=", "")

    # Verbs

    def test_help_was_understood(self):
        self.assertGreaterEqual(set(self.verbs), {"run", "ps", "stop", "stats", "analyze"})
        self.assertEqual(self.options["stop"], {"json": ("j", None), "timeout": ("t", "SECONDS")})
        self.assertEqual(parts("path=FILE[,ro][,direct=on|off]"), ({"path", "direct"}, {"ro"}, set()))
        self.assertEqual(parts("on|off|[bw=SIZE][,iops=N]"), ({"bw", "iops"}, set(), {"on", "off"}))
        for verb in self.verbs:
            lines = re.findall(r"^ +(?:-\w, +)?--[a-z]", self.sardine(verb, "--help").stdout, re.M)
            self.assertEqual(len(lines), len(self.options[verb]) + 1, verb)  # and --usage

    def test_verbs(self):
        self.assertEqual(list(self.sections), self.verbs, f"verbs of {COMMAND_PAGE.name}, of sardine --help")
        self.assertEqual(self.complete(""), {*self.verbs, "--help", "--version"}, "verbs of the completion")

    # Options

    def test_options_in_the_manual(self):
        for verb in self.verbs:
            have = man_options(self.sections.get(verb, ""))
            want = self.options[verb]
            self.assertEqual(set(have), set(want), f"sardine {verb}: options of {COMMAND_PAGE.name}, of --help")
            for name, (letter, arg) in want.items():
                self.assertEqual(have[name][:2], (letter, arg is not None), f"sardine {verb} --{name}: letter, has argument")
            self.assertEqual(list(have), sorted(have), f"sardine {verb}: order in {COMMAND_PAGE.name}")

    def test_options_in_the_completion(self):
        for verb in self.verbs:
            want = {f"--{name}{'=' if arg else ''}" for name, (_, arg) in self.options[verb].items()} | {"--help", "--usage"}
            self.assertEqual(self.complete(verb, "--"), want, f"sardine {verb}: options of the completion, of --help")

    def test_values(self):
        """Parts and choices that --help names: in the manual's line, and offered by the completion."""
        for verb in self.verbs:
            have = man_options(self.sections[verb])
            for name, (_, arg) in self.options[verb].items():
                named, flags, choices = parts(arg or "")
                line = have.get(name, ("", "", ""))[2].partition("Ns =")[2]
                missing = {w for w in named | flags | choices if not re.search(rf"\b{w}\b", line)}
                self.assertEqual(missing, set(), f"sardine {verb} --{name}: missing in {COMMAND_PAGE.name}")
                offered = self.complete(verb, "--" + name, "=", "")
                missing = {f"{w}=" for w in named} | flags | choices
                missing -= {w.partition("=")[0] + "=" if "=" in w else w for w in offered}
                self.assertEqual(missing, set(), f"sardine {verb} --{name}: not offered by the completion")
                if arg and re.match(r"(FILE|PATH|DIR)", arg):
                    self.assertIn("afile" if arg.startswith("FILE") else "afolder", offered, f"sardine {verb} --{name}")

    # Configuration

    def test_samples(self):
        for key, value in self.dry_run(*SAMPLES).items():
            self.assertNotEqual(value, [], f"{key}: add an option that fills it to SAMPLES")
        for name, (_, arg) in self.options["run"].items():
            named, _, _ = parts(arg or "")
            value = self.dry_run(*SAMPLES).get(name.replace("-", "_"))
            if named and name != "disk":
                self.assertNotIn(value, (True, False), f"{name}: add an option that shows its parts to SAMPLES")

    def test_keys(self):
        shown = shown_keys(self.dry_run(*SAMPLES))
        self.assertEqual(set(self.config_page), set(shown), f"keys of {CONFIG_PAGE.name}, of sardine run --dry-run")
        options = {name.replace("-", "_") for name in set(self.options["run"]) - NOT_IN_CONFIG}
        keys = {key for key in shown if "." not in key}
        self.assertEqual({o for o in options if o not in keys and o + "s" not in keys}, set(), "options that are no keys")

    def test_parts_are_offered(self):
        """Also those that --help leaves out."""
        keys = {name.replace("-", "_"): name for name in self.options["run"]}
        for key in shown_keys(self.dry_run(*SAMPLES)):
            of, _, part = key.partition(".")
            if part:
                option = keys.get(of) or keys[of[:-1]]
                offered = {w.partition("=")[0].replace("-", "_") for w in self.value_words(option)}
                self.assertIn(part, offered, f"--{option}: not offered by the completion")

    def test_defaults(self):
        shown = shown_keys(self.dry_run())
        shown.update({k: v for k, v in shown_keys(self.dry_run(*SAMPLES)).items() if "." in k})
        for key, text in self.config_page.items():
            if text is None:
                self.assertIn(key.rpartition(".")[2], REQUIRED | {"path", "tap", "cid"}, f"{CONFIG_PAGE.name}: {key} has no default")
                continue
            value = True if isinstance(shown[key], dict) else shown[key]
            self.assertEqual(json.loads(text), value, f"{CONFIG_PAGE.name}: default of {key}, of sardine run --dry-run")

    def test_example(self):
        example = CONFIG_PAGE.read_text().split("\n.Sh EXAMPLES\n")[1]
        (self.dir / "example.json").write_text(re.search(r"^\{$.*?^\}$", example, re.M | re.S)[0])
        done = self.sardine("run", "--config", "example.json", "--dry-run")
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    # The completion's own

    def test_names_of_vms(self):
        import socket
        self.rundir.mkdir()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(self.rundir / "web1.sock"))
            (self.rundir / "old.sock").touch()
            for verb in ("stop", "kill", "wait", "console", "stats", "dump"):
                self.assertEqual(self.complete(verb, "w"), {"web1"}, verb)
            self.assertEqual(self.complete("stop", "x"), set())
            self.assertIn("afile", self.complete("dump", "web1", ""))
            self.assertEqual(self.complete("nonsense", ""), set())
        for path in self.rundir.iterdir():
            path.unlink()

    def test_prefixes_and_commas(self):
        self.assertEqual(self.complete("run", "--ker"), {"--kernel="})
        self.assertEqual(self.complete("run", "--kernel", "af"), {"afile", "afolder"})
        self.assertEqual(self.complete("run", "--disk", "=", "path=a,ser"), {"path=a,serial="})
        self.assertEqual(self.complete("stats", "--json", ""), set())


if __name__ == "__main__":
    sardine_test.main()
