"""Scripts of transformers, run after the import that lets them load compressed models."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from transformers import ViTConfig, ViTModel

import shapeshift
from shapeshift.integrations.transformers.__main__ import main

SCRIPT = """
import sys
from transformers import AutoModel
model = AutoModel.from_pretrained(sys.argv[1])
print(__name__, "shapeshift" in dict(model.named_children()))
"""


def test_a_script_of_transformers_loads_a_compressed_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ViTConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32)
    shapeshift.compress(ViTModel(config), "80%").save_pretrained(tmp_path / "compressed")
    (tmp_path / "script.py").write_text(SCRIPT)
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(sys, "path", list(sys.path))
    main([str(tmp_path / "script.py"), str(tmp_path / "compressed")])
    assert capsys.readouterr().out.split()[-2:] == ["__main__", "True"]
    with pytest.raises(
        shapeshift.ModelError, match=r"no script nowhere\.py.*-m shapeshift\.integrations\.transformers"
    ):
        main(["nowhere.py"])
