"""What type checkers make of `atoll.chaos`."""

from __future__ import annotations

from typing import assert_type

from atoll import chaos


def test_what_users_write_has_the_types_that_they_expect() -> None:
    site = chaos.site("test.typing")
    assert_type(site, chaos.FaultSite)
    assert_type(site.fires(), bool)
    with chaos.sites(seed=1, activation=1, rules=[chaos.SiteRule("test.typing", 0.5, 0.5)]) as run:
        assert_type(run, chaos.FaultRun)
        assert_type(run.report(), chaos.FaultReport)
        assert_type(run.report()["test.typing"], chaos.FaultCount)
    injector = chaos.DelayInjector.parse("*=0:100", seed=1)
    assert_type(injector, chaos.DelayInjector)
    assert_type(injector.rules, tuple[chaos.DelayRule, ...])
    assert_type(injector.rule_for("Heartbeat"), chaos.DelayRule | None)
    assert_type(injector.preview("loop", "Heartbeat"), list[float])
    assert_type(chaos.DelayInjector.from_environment(), chaos.DelayInjector | None)
    assert_type(chaos.environment_injector(), chaos.DelayInjector | None)
    assert_type(chaos.delays() - chaos.delays(), chaos.DelayReport)
