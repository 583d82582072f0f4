"""The recipes: the config files in `configs/`, of a checkout or inside an installed package."""
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from .errors import UserError

PACKAGE = Path(__file__).resolve().parent


def folder() -> Path:
    """The folder of the recipes."""
    installed = PACKAGE / '.mim' / 'configs'
    return installed if installed.is_dir() else PACKAGE.parent / 'configs'


def names() -> list[str]:
    """Names of all recipes, such as 'cascade_mask_rcnn_mambavision_t' and 'classification/mambavision_t_in1k'."""
    files = (file.relative_to(folder()).with_suffix('') for file in folder().rglob('*.py'))
    return sorted(file.as_posix() for file in files if file.parts[0] != '_base_')


def find(config: str) -> str:
    """The path of a config: `config` itself if it is a file, otherwise the recipe of this name.

    Raises:
        UserError: there is neither.
    """
    if Path(config).is_file():
        return str(config)
    name = Path(config).as_posix().removesuffix('.py')
    if name in names():
        return str(folder() / f'{name}.py')
    close = get_close_matches(name, names(), 3)
    raise UserError(f'config not found: {config} is neither a file nor the name of a recipe'
                    + (f"; similar names: {', '.join(close)}" if close else ''))


def index() -> list[dict[str, Any]]:
    """The recipes that `metafile.yml` describes, with their published results."""
    import yaml
    return yaml.safe_load((folder() / 'metafile.yml').read_text())['Models']


def released_recipe(checkpoint: str) -> str:
    """The path of the recipe of a released detector or segmentor, by the name of its repository.

    Raises:
        UserError: the checkpoint is not one of them.
    """
    recipes = {entry['Weights'].split('/')[-1]: entry['Config'] for entry in index() if 'Weights' in entry}
    repository = checkpoint.removeprefix('hf://').rstrip('/').split('/')[1:2]
    if not checkpoint.startswith('hf://') or not repository or repository[0] not in recipes:
        released = ', '.join(f'hf://nvidia/{name}' for name in recipes)
        raise UserError(f'the config is missing. It can be left out only for these checkpoints: {released}', 'config')
    return str(folder().parent / recipes[repository[0]])
