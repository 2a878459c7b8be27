"""The bundled pack under the name `steady`, in one file, on stdout."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from steering.model.loading import BUNDLED
from steering.one_file import pack_in_one_file
from steering.pack import save_pack
from steering.store import PackStore, packs_folder

if __name__ == "__main__":
    bundled = packs_folder(BUNDLED, None)
    assert bundled is not None
    with TemporaryDirectory() as folder:
        save_pack(replace(PackStore(bundled, None).get("candid"), name="steady"), Path(folder) / "steady")
        sys.stdout.buffer.write(b"".join(pack_in_one_file(Path(folder) / "steady").pieces()))
