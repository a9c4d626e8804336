"""Back to an earlier version: what callers should pin, and the deployments that move there."""

from __future__ import annotations

from pathlib import Path

from harness.errors import VersionMissing
from harness.release import releases
from harness.release.account import Account
from harness.release.push import Dialogue
from harness.release.releases import Release


def rollback(version: str, account: Account, dialogue: Dialogue, path: Path = releases.FILE) -> Release:
    """Make a recorded version the live one; returns its record.

    version: its first characters are enough. Deployments are moved one by one, and only after the person agreed; run
    it again after a failure, and those that were moved already are left alone.

    Raises:
        UsageError: no such record, or more than one.
        VersionMissing: Replicate has it no longer.
        CredentialRefused, ReplicateFailed: as they say.
    """
    known = releases.read(path)
    chosen = releases.find(version, known)
    if account.version(chosen.model, chosen.version) is None:
        raise VersionMissing(f"{chosen.model} has no version {chosen.version} any more; choose another release.")
    _move_deployments(chosen, account, dialogue)
    releases.make_live(chosen, known, path)
    dialogue.say(f"Callers should pin {chosen.model}:{chosen.version}")
    return chosen


def _move_deployments(chosen: Release, account: Account, dialogue: Dialogue) -> None:
    for deployment in account.deployments(chosen.model):
        name = f"{deployment.owner}/{deployment.name}"
        now = deployment.current_release.version if deployment.current_release else ""
        if now == chosen.version:
            dialogue.say(f"Deployment {name} runs it already.")
        elif dialogue.confirm(f"Move deployment {name} from {now[:12]} to {chosen.version[:12]}?"):
            account.deploy(deployment, chosen.version)
            dialogue.say(f"Deployment {name} moved.")
        else:
            dialogue.say(f"Deployment {name} stays at {now[:12]}.")
