"""How commands end."""
import pytest

from mmmambavision.errors import UserError
from mmmambavision.terminal import run


def test_mistakes_and_the_keyboard(capsys):
    """One sentence each, and errors of the program as they are."""
    def ends(error):
        def main():
            raise error
        with pytest.raises(SystemExit) as ended:
            run(main)
        return ended.value.code

    assert ends(UserError('no such file')) == 'error: no such file'
    assert ends(KeyboardInterrupt()) == 130 and len(capsys.readouterr().err.splitlines()) == 1
    assert ends(KeyboardInterrupt('2 of 3 runs are done')) == 130
    assert capsys.readouterr().err == '2 of 3 runs are done\n'
    with pytest.raises(ZeroDivisionError):
        run(lambda: 1 / 0)


def test_a_package_that_is_not_installed():
    def main(name):
        raise ModuleNotFoundError(f'No module named {name!r}', name=name)

    with pytest.raises(SystemExit, match=r'mmdet.*mmmambavision\[openmmlab\]'):
        run(lambda: main('mmdet'))
    with pytest.raises(ModuleNotFoundError):  # an error of the program
        run(lambda: main('mmdet.apis.gone'))
