"""scripts/host-setup against a copy of sysfs with a kernel behind it that binds cards. No real card was ever bound here:
what this shows is which files are written, in which order, with what, and that all of it is taken back."""

import os
import subprocess
import tempfile
import threading
from pathlib import Path

from labcase import TimedCase

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "host-setup"
CARD, TWIN, BRIDGE = "0000:01:00.0", "0000:01:00.1", "0000:00:1c.0"
PAGES = "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
GRUB = "etc/default/grub.d/twinpath.cfg"


class Machine:
    """A folder with the part of /sys and /proc that is used. `unbind` and `drivers_probe` are FIFOs which a thread reads
    as the kernel would: a device leaves its driver, or gets the one that its override or its kind asks for."""

    KIND = "ixgbe"

    def __init__(self, root, cards):
        self.root = Path(root)
        self.written = []
        self.refusing = None
        self.write("sys/devices/system/cpu/present", "0-3")
        self.write(PAGES, "0")
        for number, cores in ((1, "0"), (24, "0-3"), (25, "2")):
            self.write(f"proc/irq/{number}/smp_affinity_list", cores)
        for driver in (self.KIND, "vfio-pci", "pcieport"):
            folder = self.root / "sys/bus/pci/drivers" / driver
            folder.mkdir(parents=True)
            self._serve(folder / "unbind", self._unbind)
        self._serve(self.root / "sys/bus/pci/drivers_probe", self._probe)
        for address, driver in cards.items():
            self._plug(address, driver)

    def _plug(self, address, driver):
        device = self.device(address)
        self.write(device.relative_to(self.root) / "class", "0x060400" if driver == "pcieport" else "0x020000")
        self.write(device.relative_to(self.root) / "driver_override", "")
        group = self.root / "sys/kernel/iommu_groups/7"
        (group / "devices").mkdir(parents=True, exist_ok=True)
        (device / "iommu_group").symlink_to(group)
        (group / "devices" / address).symlink_to(device)
        self._bind(address, driver)

    def device(self, address):
        """Folder of a device."""
        return self.root / "sys/bus/pci/devices" / address

    def write(self, path, text):
        """A file of the copy."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n", encoding="ascii")

    def read(self, path):
        """Content of a file without its end of line."""
        return (self.root / path).read_text(encoding="ascii").strip()

    def driver(self, address):
        """Driver of a device, or None."""
        link = self.device(address) / "driver"
        return os.path.basename(os.readlink(link)) if link.is_symlink() else None

    # -- the kernel's part

    def _serve(self, fifo, action):
        os.mkfifo(fifo)
        # Open for writing, too: it has no end, so no writer comes between two readings.
        pipe = os.fdopen(os.open(fifo, os.O_RDWR), encoding="ascii")

        def listen():
            for line in pipe:
                self.written.append(f"{fifo.name} {line.strip()}")
                action(line.strip())

        threading.Thread(target=listen, daemon=True).start()

    def _bind(self, address, driver):
        if driver:
            (self.device(address) / "driver").symlink_to(self.root / "sys/bus/pci/drivers" / driver)

    def _unbind(self, address):
        (self.device(address) / "driver").unlink()

    def _probe(self, address):
        driver = self.read(self.device(address) / "driver_override") or self.KIND
        if not self.driver(address) and driver != self.refusing:
            self._bind(address, driver)


class TestHostSetup(TimedCase):
    """Each test has a machine with two ports of one card behind a bridge."""

    def setUp(self):
        folder = self.enterContext(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        self.machine = Machine(folder, {CARD: Machine.KIND, TWIN: Machine.KIND, BRIDGE: "pcieport"})

    def call(self, *words, code=0):
        """Runs the script on the copy; returns what it printed, errors first."""
        done = subprocess.run([SCRIPT, "--root", self.machine.root, *words], capture_output=True, text=True, timeout=30,
                              check=False)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return done.stderr + done.stdout

    def files(self):
        """Every file of the copy with its content or target, FIFOs aside."""
        found = {}
        for path in self.machine.root.rglob("*"):
            if path.is_symlink():
                found[str(path)] = os.readlink(path)
            elif path.is_file():
                found[str(path)] = path.read_text(encoding="ascii").strip()
        return found

    def test_without_apply_everything_is_shown_and_nothing_changes(self):
        before = self.files()
        shown = self.call("--hugepages", "2M=512", "--bind", CARD, "--bind", TWIN, "--cores", "2-3")
        for line in (f"{PAGES}: 512, now 0", f"{CARD}: vfio-pci, now {Machine.KIND}", "isolcpus=managed_irq,domain,2-3",
                     "proc/irq/24/smp_affinity_list: 0,1, now 0-3", "nothing was changed"):
            self.assertIn(line, shown)
        self.assertNotIn("irq/1/", shown, "an interrupt that doesn't come to these cores")
        self.assertEqual((self.files(), self.machine.written), (before, []))

    def test_apply_does_it_once_and_undo_takes_all_of_it_back(self):
        before = self.files()
        wishes = ("--hugepages", "2M=512", "--bind", CARD, "--bind", TWIN, "--cores", "2-3", "--apply")
        self.call(*wishes)
        self.assertEqual([self.machine.driver(card) for card in (CARD, TWIN, BRIDGE)],
                         ["vfio-pci", "vfio-pci", "pcieport"])
        self.assertEqual(self.machine.written, [f"unbind {CARD}", f"drivers_probe {CARD}", f"unbind {TWIN}",
                                                f"drivers_probe {TWIN}"])
        self.assertEqual((self.machine.read(PAGES), self.machine.read("proc/irq/25/smp_affinity_list")), ("512", "0,1"))
        self.assertIn("nohz_full=2-3", self.machine.read(GRUB))
        # Once more, with more pages: nothing is bound again, and the first value stays the one to go back to.
        again = self.call("--hugepages", "2M=600", "--bind", CARD, "--apply")
        self.assertNotIn("vfio", again)
        self.assertEqual(len(self.machine.written), 4)
        shown = self.call("--undo")
        self.assertIn(f"{CARD}: {Machine.KIND}, now vfio-pci", shown)
        self.assertEqual(self.machine.driver(CARD), "vfio-pci", "shown only")
        self.call("--undo", "--apply")
        self.assertEqual(self.files(), before)
        self.assertIn("nothing to undo", self.call("--undo"))

    def test_wishes_that_cannot_be_met_are_all_named_and_nothing_is_changed(self):
        self.machine.write(f"sys/bus/pci/devices/{CARD}/net/enp1s0f0/operstate", "up")
        before = self.files()
        said = self.call("--hugepages", "1G=4", "--hugepages", "2M=lots", "--bind", CARD, "--bind", "0000:0f:00.0",
                         "--cores", "3-9", "--apply", code=1)
        for line in ("no pages of 1G", "SIZE=COUNT", "enp1s0f0 is up", f"{TWIN} is in the same IOMMU group",
                     "0000:0f:00.0: no such device", "there is no core 9"):
            self.assertIn(line, said)
        self.assertEqual((self.files(), self.machine.written), (before, []))

    def test_a_card_without_iommu_and_all_cores_are_refused(self):
        (self.machine.device(CARD) / "iommu_group").unlink()
        said = self.call("--bind", CARD, "--cores", "0-3", "--apply", code=1)
        self.assertIn("no IOMMU", said)
        self.assertIn("the system needs a core", said)

    def test_a_driver_that_does_not_take_the_card_is_named_and_undo_returns_it(self):
        self.machine.refusing = "vfio-pci"
        said = self.call("--bind", CARD, "--bind", TWIN, "--apply", code=1)
        self.assertIn(f"{CARD}: vfio-pci doesn't take it", said)
        self.assertIsNone(self.machine.driver(CARD))
        self.call("--undo", "--apply")
        self.assertEqual(self.machine.driver(CARD), Machine.KIND)

    def test_the_file_of_the_unit_means_the_same_as_the_words(self):
        wishes = self.machine.root / "host.conf"
        wishes.write_text(f"# comment\n\nhugepages 2M=7\nbind {CARD}\nbind {TWIN}\ncores 3", encoding="ascii")
        self.assertEqual(self.call("--from", str(wishes)),
                         self.call("--hugepages", "2M=7", "--bind", CARD, "--bind", TWIN, "--cores", "3"))
        wishes.write_text("hugepage 2M=7\n", encoding="ascii")
        self.assertIn("host.conf:1: unknown word hugepage", self.call("--from", str(wishes), code=2))

    def test_words_that_are_not_understood_end_with_2(self):
        for words in ((), ("--bind",), ("--hugepages", "2M=1", "--undo"), ("--everything",)):
            self.call(*words, code=2)
