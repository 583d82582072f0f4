from ...helpers.process import load_tool


def test_torchs_warning_of_an_old_driver_is_shown(tmp_path, monkeypatch, capfd):
    (tmp_path / 'script.py').write_text('import warnings\nwarnings.warn("CUDA initialization: old driver")\n'
                                        'warnings.warn("something else")')
    tool = load_tool('demo/demo')
    monkeypatch.setattr(tool, 'TOOLS', tmp_path)
    tool.call('script.py')
    error = capfd.readouterr().err
    assert 'old driver' in error and 'something else' not in error
