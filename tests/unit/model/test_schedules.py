# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How far apart the moments of a schedule are."""

from __future__ import annotations

import pytest
from ansible_collections.mlops.mlflow.plugins.plugin_utils.model import common

HOUR, DAY = 3600, 86400
LONGEST = {
    "0 2 * * *": DAY, "@daily": DAY, "@hourly": HOUR, "*/15 * * * *": 900, "0 2,14 * * *": 12 * HOUR,
    "0 2 * * 1-5": 3 * DAY, "0 2 * * mon,Thu": 4 * DAY, "@weekly": 7 * DAY, "30 1 1 * *": 31 * DAY,
    "0 0-6/2 * * *": 18 * HOUR, "5/20 3 * * *": DAY - 40 * 60, "0 2 1 jan,jul ?": 184 * DAY, "@yearly": 366 * DAY,
    "0 2 29 2 *": 1461 * DAY, "@every 6h30m": 6.5 * HOUR,
    # Day of the month or of the week: one of them suffices where both are restricted; a step of all counts so, too.
    "0 2 13 * fri": 7 * DAY, "0 2 */2 * mon": 2 * DAY, "0 2 */1 * mon": 7 * DAY,
    # There is no such day.
    "0 2 30 2 *": 0,
}


@pytest.mark.parametrize("schedule", LONGEST)
def test_the_longest_time_between_two_moments(schedule):
    assert common.cron(schedule) and common.cron_interval(schedule) == LONGEST[schedule]
