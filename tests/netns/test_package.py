"""The Debian package: what is in it, what dpkg makes of it, what systemd says about its units. systemd doesn't run as
process 1 where these tests run, so nobody has booted with the units: they are checked, and what the daemons tell
systemd is heard (test_supervisor.py)."""

import hashlib
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from labcase import TimedCase
from twinlab.node import binaries
from twinlab.shell import run

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "scripts" / "package"
PROGRAMS = ("twinpath-dataplane", "twinpath-control", "twinpathctl", "twinpath-host-setup")
UNITS = ("twinpath-dataplane.service", "twinpath-control.service", "twinpath-host.service")
# Most that `systemd-analyze security` may find exposed, in tenths. The third unit changes the machine by design.
EXPOSURE_MAX = {"twinpath-dataplane.service": 30, "twinpath-control.service": 25}


class ToolCase(TimedCase):
    """A test that uses programs which not every machine has."""

    def need(self, program):
        """Says so and skips the test when it isn't there."""
        if not shutil.which(program):
            self.say(f"not run: {program} is not installed")
            self.skipTest(program)


class TestPackage(ToolCase):
    """One package for all tests."""

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = Path(folder.name)
        cls.package = cls.build("first")
        cls.tree = cls.folder / "tree"
        run("dpkg-deb", "-x", cls.package, cls.tree)

    @classmethod
    def build(cls, name):
        """Packs the programs that the other tests run."""
        said = run(SCRIPT, "--bin", binaries(), "--out", cls.folder / name, within_s=240)
        return Path(said.strip())

    def field(self, name):
        """A field of the control file."""
        return run("dpkg-deb", "-f", self.package, name).strip()

    def test_every_part_is_in_it_owned_by_root_and_not_writable_by_others(self):
        listed = run("dpkg-deb", "-c", self.package).splitlines()
        rows = {line.split(None, 5)[5]: line.split()[:2] for line in listed}
        wanted = [f"./usr/sbin/{program}" for program in PROGRAMS]
        wanted += [f"./usr/share/man/man8/{program}.8.gz" for program in PROGRAMS]
        wanted += [f"./lib/systemd/system/{unit}" for unit in UNITS]
        wanted += ["./lib/systemd/system/keepalived.service.d/twinpath.conf"]
        wanted += ["./etc/twinpath/twinpath.toml", "./usr/share/man/man5/twinpath.toml.5.gz",
                   "./usr/share/man/man8/twinpathctl-show-conntrack.8.gz", "./usr/share/doc/twinpath/copyright",
                   "./usr/share/doc/twinpath/changelog.gz", "./usr/share/doc/twinpath/examples/twinpath.toml",
                   "./usr/share/doc/twinpath/examples/host.conf", "./usr/share/zsh/vendor-completions/_twinpathctl",
                   "./usr/share/bash-completion/completions/twinpathctl",
                   "./usr/share/fish/vendor_completions.d/twinpathctl.fish"]
        self.assertEqual([path for path in wanted if path not in rows], [])
        for path, (mode, owner) in rows.items():
            self.assertEqual(owner, "root/root", path)
            program = path.startswith("./usr/sbin/twinpath")
            self.assertEqual(mode, "drwxr-xr-x" if path.endswith("/") else
                             "-rwxr-xr-x" if program else "-rw-r--r--", path)
            self.assertRegex(path, r"^\./(etc|lib|usr)?(/|$)")

    def test_the_control_file_names_version_libraries_and_drivers(self):
        version = run(binaries() / "twinpathctl", "--version").split()[1]
        self.assertEqual(self.field("Version"), version)
        self.assertEqual(self.package.name, f"twinpath_{version}_{self.field('Architecture')}.deb")
        depends = self.field("Depends")
        for package in (r"libc6 \(>= ", r"librte-eal\d+ \(>= ", r"librte-mempool-ring\d+", r"librte-net-af-packet\d+"):
            self.assertRegex(depends, package)
        text = run("dpkg-deb", "-I", self.package, "conffiles")
        self.assertEqual(text.split(), ["/etc/twinpath/twinpath.toml"])
        description = run("dpkg-deb", "-f", self.package, "Description").splitlines()
        self.assertLessEqual(len(description[0]), 60)
        self.assertTrue(all(len(line) <= 80 for line in description))

    def test_checksums_are_those_of_the_files(self):
        rows = [line.split(None, 1) for line in run("dpkg-deb", "-I", self.package, "md5sums").splitlines()]
        files = sorted(str(path.relative_to(self.tree)) for path in self.tree.rglob("*") if path.is_file())
        self.assertEqual(sorted(path for _, path in rows), files)
        for digest, path in rows:
            self.assertEqual(hashlib.md5((self.tree / path).read_bytes()).hexdigest(), digest, path)

    def test_the_same_programs_make_the_same_package(self):
        self.assertEqual(self.build("second").read_bytes(), self.package.read_bytes())

    def test_dpkg_installs_keeps_the_operators_configuration_and_removes(self):
        root = self.folder / "root"
        database = root / "var" / "lib" / "dpkg"
        for name in ("info", "updates", "triggers"):
            (database / name).mkdir(parents=True)
        for name in ("status", "available"):
            (database / name).touch()
        # Nothing else is installed there; that the dependencies are right, the container image shows.
        dpkg = ["dpkg", f"--root={root}", "--force-depends", "--force-script-chrootless", "--force-confdef",
                "--force-confold", "--log=/dev/null"]
        run(*dpkg, "--install", self.package)
        configuration = root / "etc" / "twinpath" / "twinpath.toml"
        configuration.write_text("# the operator's\n", encoding="ascii")
        run(*dpkg, "--install", self.package)
        self.assertEqual(configuration.read_text(encoding="ascii"), "# the operator's\n")
        own = configuration.with_name("host.conf")
        own.write_text("hugepages 2M=1\n", encoding="ascii")
        run(*dpkg, "--remove", "twinpath")
        self.assertFalse((root / "usr/sbin/twinpath-dataplane").exists())
        self.assertTrue(configuration.exists())
        run(*dpkg, "--purge", "twinpath")
        left = [str(path.relative_to(root)) for path in root.rglob("*")
                if path.is_file() and database not in path.parents]
        self.assertEqual(left, ["etc/twinpath/host.conf"])

    def test_the_configuration_that_comes_along_has_no_fault(self):
        file = self.tree / "etc/twinpath/twinpath.toml"
        done = subprocess.run([self.tree / "usr/sbin/twinpathctl", "config", "check", file], capture_output=True, text=True,
                              check=False)
        # This machine needn't have its interfaces and cores; the file itself has to be right.
        excused = ("not an error of the file", "doesn't exist; use ")
        faults = [line for line in (done.stdout + done.stderr).splitlines() if not any(word in line for word in excused)]
        self.assertEqual(faults, [])

    def test_completions_are_understood_by_their_shell(self):
        run("bash", "-n", self.tree / "usr/share/bash-completion/completions/twinpathctl")
        for file in ("usr/share/zsh/vendor-completions/_twinpathctl", "usr/share/fish/vendor_completions.d/twinpathctl.fish"):
            self.assertIn("ha-fp-conntrack", (self.tree / file).read_text(encoding="utf-8"))

    def test_every_option_of_every_program_is_in_its_manual_page(self):
        for program in PROGRAMS:
            said = run(self.tree / "usr/sbin" / program, "--help")
            page = run("gzip", "-dc", self.tree / f"usr/share/man/man8/{program}.8.gz")
            plain = re.sub(r"\\f[A-Z]|\\", "", page).replace("Fl Fl ", "--")
            options = set(re.findall(r"--[a-z][a-z-]+", said))
            self.assertGreater(len(options), 1, program)
            self.assertEqual([option for option in sorted(options) if option not in plain], [], program)

    def test_manual_pages_are_set_without_a_warning(self):
        self.need("man")
        pages = sorted((self.tree / "usr/share/man").rglob("*.gz"))
        self.assertGreater(len(pages), 10)
        for page in pages:
            done = subprocess.run(["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", page], capture_output=True,
                                  text=True, check=False)
            self.assertEqual((done.returncode, done.stderr), (0, ""), page.name)


class TestUnits(ToolCase):
    """systemd's own opinion of the units, with the machine's other units around them."""

    def setUp(self):
        self.need("systemd-analyze")
        self.root = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.units = self.root / "lib/systemd/system"
        shutil.copytree("/lib/systemd/system", self.units, symlinks=True)
        for unit in UNITS:
            shutil.copy(REPOSITORY / "scripts/package.d" / unit, self.units)
        for program in (*(f"usr/sbin/{name}" for name in PROGRAMS), "bin/kill"):
            file = self.root / program
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch(mode=0o755)

    def verify(self, *units):
        """What `systemd-analyze verify` has to say about our units."""
        done = subprocess.run(["systemd-analyze", f"--root={self.root}", "--man=no", "verify", *units],
                              capture_output=True, text=True, check=False)
        return [line for line in done.stderr.splitlines() if "twinpath" in line]

    def test_the_units_are_understood(self):
        self.assertEqual(self.verify(*UNITS), [])
        # The check sees a mistake.
        unit = self.units / UNITS[0]
        unit.write_text(unit.read_text(encoding="ascii").replace("WatchdogSec=10s", "WatchdogSec=soon"), encoding="ascii")
        self.assertIn("soon", "".join(self.verify(UNITS[0])))

    def test_the_exposure_stays_under_its_bound(self):
        for unit, bound in EXPOSURE_MAX.items():
            done = subprocess.run(["systemd-analyze", "security", "--offline=true", f"--threshold={bound}",
                                   self.units / unit], capture_output=True, text=True, check=False)
            self.say(done.stdout.splitlines()[-1] if done.stdout else done.stderr)
            self.assertEqual(done.returncode, 0, done.stdout)

    def test_start_order_is_host_then_data_then_control(self):
        text = {unit: (self.units / unit).read_text(encoding="ascii") for unit in UNITS}
        self.assertRegex(text["twinpath-dataplane.service"], r"(?m)^After=.*twinpath-host\.service")
        self.assertRegex(text["twinpath-control.service"], r"(?m)^After=twinpath-dataplane\.service$")
        # The data process goes on without the control process, in both directions.
        self.assertNotRegex(text["twinpath-control.service"], r"(?m)^(Requires|BindsTo|PartOf)=")
