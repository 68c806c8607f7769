# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The charts that can be taken over."""

from __future__ import annotations

from types import ModuleType

from ansible_collections.mlops.mlflow.plugins.plugin_utils.adoption import community, official
from ansible_collections.mlops.mlflow.plugins.plugin_utils.adoption.plan import Adoption, Live
from ansible_collections.mlops.mlflow.plugins.plugin_utils.adoption.release import Release, ReleaseError

CHARTS = (community, official)


def of(release: Release) -> ModuleType:
    """The table of a release's chart; both charts are called mlflow, so that their values tell.

    Raises:
        ReleaseError: it is another chart.
    """
    for chart in CHARTS:
        if chart.is_chart(release.defaults):
            return chart
    raise ReleaseError(f"Helm release {release.name} is of chart {release.chart} {release.version}, which cannot be "
                       f"taken over; only those of {' and '.join(chart.NAME for chart in CHARTS)} can.")


def adopted(release: Release, instance: str, live: Live | None = None, as_variables: bool = False) -> Adoption:
    """What becomes of a release.

    Args:
        release: the release.
        instance: name of the instance.
        live: what the cluster says.
        as_variables: whether secrets that the values hold become variables; else they are put into a Secret.

    Raises:
        ReleaseError: the release cannot be taken over.
    """
    return Adoption(release, of(release).ROWS, instance, live, as_variables).run()
