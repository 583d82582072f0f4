"""The cells of docs/colab.ipynb on a CPU, but for those that clone, download or ask for a picture."""
import json
import os
import sys
from pathlib import Path

import pytest

from .helpers.process import ROOT

NOTEBOOK = ROOT / 'docs' / 'colab.ipynb'
# A matter of a minute.
LESS_TRAINING = ('--cfg-options train_cfg.max_epochs=1 train_cfg.val_interval=1 train_dataloader.num_workers=0 '
                 'train_dataloader.persistent_workers=False val_dataloader.num_workers=0 '
                 'val_dataloader.persistent_workers=False')


@pytest.mark.full
def test_cells(tmp_path, monkeypatch):
    nbformat, nbclient = pytest.importorskip('nbformat'), pytest.importorskip('nbclient')
    pytest.importorskip('ipykernel')
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    skipped = [cell for cell in notebook.cells if {'setup', 'network'} & set(cell.metadata.get('tags', []))]
    assert len(skipped) == 2
    notebook.cells = [cell for cell in notebook.cells if cell not in skipped]
    for cell in notebook.cells:
        if cell.source.startswith('!python tools/demo/make_shapes'):
            cell.source += ' --train 16 --val 6 --size 96'
        if 'tools/train.py' in cell.source:
            cell.source += f' {LESS_TRAINING}'
    for name in ('tools', 'configs', 'mmmambavision'):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.setenv('PATH', f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")  # for `!python`
    nbclient.NotebookClient(notebook, timeout=300, kernel_name='python3',
                            resources=dict(metadata=dict(path=str(tmp_path)))).execute()
    texts = [''.join(json.dumps(output) for output in cell.get('outputs', [])) for cell in notebook.cells
             if cell.cell_type == 'code']
    shapes, drawn, trained, evaluated, predicted = texts
    assert '(1, 80, 64, 80)' in shapes and '(1, 640, 8, 10)' in shapes
    assert 'data/shapes' in drawn and 'Saving checkpoint at 1 epochs' in trained
    assert 'coco/bbox_mAP' in evaluated
    assert '1 of 1' in predicted and 'image/jpeg' in predicted
