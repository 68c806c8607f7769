# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Notes each module that Ansible starts as a process of its own, one name a line, in the file of BENCHMARK_MODULES.

No event tells of them, since an action plugin may start none or several. So this wraps the one method through which all of them
go, in Ansible's parent process, before it forks.
"""

from __future__ import annotations

import os

from ansible.plugins.action import ActionBase
from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: modules_counted
type: aggregate
short_description: Notes each module that is started as a process
description: A part of the benchmarks.
"""


class CallbackModule(CallbackBase):
    """Hears nothing; its making is its work."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "modules_counted"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self):
        super().__init__()
        execute = ActionBase._execute_module

        def counted(action, module_name=None, *args, **kwargs):
            with open(os.environ["BENCHMARK_MODULES"], "a", encoding="utf-8") as notes:
                notes.write(f"{module_name or action._task.action}\n")
            return execute(action, module_name, *args, **kwargs)

        ActionBase._execute_module = counted
