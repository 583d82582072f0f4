"""A file and what it says of itself."""
from ...errors import UserError
from ...export.onnx import metadata, read


def open_file(file, task):
    """The ONNX Runtime session and the metadata of an exported model.

    Args:
        file: path.
        task: 'detection' or 'segmentation'.

    Raises:
        UserError: it is another file.
    """
    session = read(file)
    found = metadata(session)
    if found.get('task') != task:
        holds = found.get('task') or found.get('part') or 'something else'
        raise UserError(f'{file} holds {holds}, the config asks for {task}: evaluate a whole model that '
                        'tools/export.py wrote of this config')
    return session, found
