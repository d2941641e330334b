"""When tokens that a service refuses are worth replacing, and when it refuses whatever it is shown.

A service refuses tokens when Shield's key was retired, or a project revoked: then each is replaced, and all is well. A
service that follows another Shield, or does not get at the keys of this one, refuses the new ones just as well.
"""

from __future__ import annotations

from meshkit.security.minting import Minted

FIRST_S = 1.0
MOST_S = 60.0
"""Seconds until new tokens are replaced again, at first and at most: doubled each time that they are refused, too."""


class Refusals:
    """Those of one service.

    What was fetched before the last replacing began is replaced at once, however much that is. What was fetched since
    is, once a pause is over, which begins another replacing.
    """

    def __init__(self) -> None:
        self._began = float("-inf")
        self._pause = FIRST_S

    def may_replace(self, refused: Minted, now: float) -> bool:
        """Takes note of a refusal; whether another token may be asked for.

        Args:
            refused: The token that was refused.
            now: Unix time in seconds.
        """
        since = now - self._began
        if refused.issued_at < self._began or since < 0:  # it is older; or the clock was put back
            return True
        if since < self._pause:
            return False
        self._pause = FIRST_S if since > 2 * MOST_S else min(2 * self._pause, MOST_S)
        self._began = now
        return True
