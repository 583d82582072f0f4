"""Hooks of mkdocs: the address of the repository, links to files outside docs/, and the changelog as a page."""
import re
from pathlib import Path, PurePosixPath

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
LINK = re.compile(r'\]\((\.\./[^)\s]+)\)')
PAGES = {'README.md': 'index.md', 'CHANGELOG.md': 'changelog.md'}  # files outside docs/ that the site has as pages


def on_config(config):
    """Take the address of the repository from pyproject.toml, its only place."""
    config.repo_url = re.search(r'^Repository = "(.+)"', (ROOT / 'pyproject.toml').read_text(), re.MULTILINE)[1]
    config.repo_name = 'mmmambavision'
    return config


def on_files(files, config):
    """Add CHANGELOG.md as a page."""
    files.append(File.generated(config, 'changelog.md', content=(ROOT / 'CHANGELOG.md').read_text()))
    return files


def on_page_markdown(markdown, page, config, files):
    """Make links to files outside docs/ links to the repository.

    Raises:
        FileNotFoundError: a page links to a file that does not exist.
    """
    folder = ROOT / 'docs' / PurePosixPath(page.file.src_uri).parent

    def absolute(link):
        path, hash_sign, anchor = link[1].partition('#')
        target = (folder / path).resolve()
        if target.is_relative_to(ROOT / 'docs'):
            return link[0]
        if not target.exists():
            raise FileNotFoundError(f'docs/{page.file.src_uri} links to {path}, which does not exist')
        name = target.relative_to(ROOT).as_posix()
        if name in PAGES:
            return f']({"../" * page.file.src_uri.count("/")}{PAGES[name]}{hash_sign}{anchor})'
        kind = 'tree' if target.is_dir() else 'blob'
        return f']({config.repo_url}/{kind}/HEAD/{name}{hash_sign}{anchor})'

    return LINK.sub(absolute, markdown)
