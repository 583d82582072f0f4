"""Add the recipes to the package, in the folder that OpenMMLab's mim reads. pyproject.toml has the other settings."""
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
        # check_gpu runs the tests, which the package does not contain.
        ignored = shutil.ignore_patterns('__pycache__', 'check_gpu*.py')
        for folder in ('configs', 'tools'):
            shutil.copytree(folder, target / folder, dirs_exist_ok=True, ignore=ignored)
        shutil.copy('model-index.yml', target)


setup(cmdclass=dict(build_py=BuildWithRecipes))
