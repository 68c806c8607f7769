# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Names of images that role C(images) builds."""

from __future__ import annotations

DOCUMENTATION = r"""
name: image_names
short_description: Names of the images that role images builds
version_added: 0.1.0
author: mlops.mlflow contributors (@mlops)
description:
  - Gives each image a name that tells what is in it, known without building it. The name ends in a digest of the role's
    build files and of the given contents, so that a change of either is another image.
options:
  _input:
    description: For each image the list of what goes into it; the first entry is its version.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Which image would run
  ansible.builtin.debug:
    msg: "{{ {'base': ['bookworm'], 'seaweedfs': ['4.48']} | mlops.mlflow.image_names }}"
"""

RETURN = r"""
_value:
  description: The name of each image, for example V(localhost/mlops-mlflow/seaweedfs:4.48-1a2b3c4d).
  type: dict
"""

import hashlib
import pathlib

FILES = pathlib.Path(__file__).parents[2] / "roles" / "images" / "files"


def image_names(contents: dict[str, list]) -> dict[str, str]:
    """Map each image to its name; the digest covers the build files whose names begin with the image's."""
    base = _digest("base", contents.get("base", []), "")
    return {image: f"localhost/mlops-mlflow/{image}:{parts[0]}-{base if image == 'base' else _digest(image, parts, base)}"
            for image, parts in contents.items()}


def _digest(image: str, parts: list, base: str) -> str:
    digest = hashlib.sha256("\n".join([base, *map(str, parts)]).encode())
    for path in sorted(FILES.glob(f"{image}[-.]*")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


class FilterModule:
    """Filters of role images."""

    def filters(self):
        return {"image_names": image_names}
