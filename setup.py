"""All about the package is in pyproject.toml; this puts the recipes into it, where OpenMMLab's mim looks for them."""
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithRecipes(build_py):

    def run(self):
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib, 'mmmambavision', '.mim')
        ignored = shutil.ignore_patterns('__pycache__', 'check_gpu*.py')  # which run the tests, which are not here
        for folder in ('configs', 'tools'):
            shutil.copytree(folder, target / folder, dirs_exist_ok=True, ignore=ignored)
        shutil.copy('model-index.yml', target)


setup(cmdclass=dict(build_py=BuildWithRecipes))
