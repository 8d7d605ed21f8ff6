"""The command line, and pages beside records that are broken."""

import pytest

from rog_jax.tools.reproduce import cost
from rog_jax.tools.reproduce.__main__ import main
from rog_jax.tools.reproduce.places import alone_in
from rog_jax.tools.reproduce.records import record_path
from rog_jax.tools.reproduce.runs import object_level


def test_command_line_without_runs(places, capsys):
    flags = ["--work", str(places.work), "--out", str(places.out)]
    main(["table4", "--status", *flags])
    assert "0 of   5 finished" in capsys.readouterr().out
    main(["table4", "--pages", *flags])
    assert not list(places.out.glob("*.md"))
    with pytest.raises(SystemExit, match="--ccp DIR"):
        main(["ccp", *flags, "--ccp", str(places.ccp)])
    main(["table4", "--minutes", "0", *flags])
    printed = capsys.readouterr().out
    assert "the same command goes on" in printed
    assert "0 of   5 finished" in printed
    main(["headline", "--status", "--quick", *flags])
    assert "0 of   4 finished" in capsys.readouterr().out
    for flag in ("--status", "--pages"):
        with pytest.raises(SystemExit):
            main(["cost", flag, *flags])
        assert "without --status" in capsys.readouterr().err


def test_the_cost_is_not_measured_beside_a_run(places):
    with alone_in(places.work), pytest.raises(RuntimeError, match="another program"):
        cost.write_cost(places)


def test_an_unrelated_broken_record_does_not_end_the_queue(places, programs, capsys):
    other = object_level("eqlv2")
    record_path(places, other, 0).parent.mkdir(parents=True)
    record_path(places, other, 0).write_text("{")
    command = ["table3", "--quick", "--work", str(places.work), "--out", str(places.out)]
    main(command)
    assert (places.out / "table3.md").is_file()
    assert not (places.out / "table1.md").exists()
    assert "no page of table1" in capsys.readouterr().err
    assert [path.name for path in places.work.iterdir()] == ["quick"]
    (places.out / "table3.md").unlink()
    main([*command, "--seeds", "2", "--minutes", "0"])
    assert "the same command goes on" in capsys.readouterr().out
    assert (places.out / "table3.md").is_file()
