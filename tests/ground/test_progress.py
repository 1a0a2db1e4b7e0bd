from drhn_cli.errors import DrhnError
from drhn_cli.progress import SILENT


def test_silence(capfd):
    SILENT.phase("hashing", 7)
    SILENT.advance()
    SILENT.failure(DrhnError("bad"))
    SILENT.note("going on")
    assert capfd.readouterr() == ("", "")
