"""What is finished, and how long the rest may take."""

from rog_jax.tools.reproduce.records import write_record
from rog_jax.tools.reproduce.runs import object_level
from rog_jax.tools.reproduce.status import expected_seconds, status
from rog_jax.tools.reproduce.targets import TARGETS
from tests.tools.reproduce.made_up import RUN, content


def test_the_time_is_told_without_records_that_do_not_say(places, caplog):
    path = write_record(places, RUN, 0, content(seconds=6000.0)).path
    text = path.read_text()
    path.with_name("gone.seed0.json").write_text(text.replace('"drawn"', '"a set of yesterday"'))
    path.with_name("broken.seed0.json").write_text("{")
    told = status([TARGETS["table4"]], places)
    assert told.endswith("at 100 min a run so far")
    assert "gone.seed0.json is of a set that is not known" in caplog.text
    assert "broken.seed0.json is broken" in caplog.text
    assert path.name not in caplog.text


def test_status_counts_shared_runs_once(places):
    write_record(places, TARGETS["headline"].rows[0].run, 0, content(seconds=600.0))
    lines = status(list(TARGETS.values()), places).splitlines()
    assert lines[0].startswith("headline       1 of  12 finished, 1.8 h left: sigmoid_ce-gap.seed0")
    assert lines[1].startswith("table1         0 of  14 finished")
    assert lines[-1].endswith("at 10 min a run so far")


def test_expected_times_are_the_runs_own_or_of_as_many_epochs(places):
    ccp, other = (TARGETS["ccp"].rows[place].run.description() for place in (0, 1))
    plain = object_level("sigmoid_ce").description()
    assert expected_seconds(ccp, []) == 16 / 6 * expected_seconds(plain, [])
    longer = object_level("seesaw", settings={"train.epochs": 12}).description()
    records = [
        write_record(places, run, seed, content(seconds=seconds))
        for run, seed, seconds in (
            (object_level("sigmoid_ce"), 0, 600.0),
            (TARGETS["ccp"].rows[0].run, 0, 2800.0),
            (TARGETS["ccp"].rows[0].run, 1, 3000.0),
        )
    ]
    assert expected_seconds(longer, records) == 1200.0
    assert expected_seconds(ccp, records) == 2900.0
    assert expected_seconds(other, records[:2]) == 2800.0
