"""A page that predicts on the picture that is dropped into it."""
from ...errors import UserError


def serve(predictor, **options):
    """Open the page and wait until it is closed with Ctrl-C; options are those of gradio's `launch`.

    Raises:
        UserError: gradio is not installed.
    """
    try:
        import gradio
    except ImportError:
        raise UserError('the page in the browser needs gradio: pip install gradio') from None

    def predict(image, threshold):
        if image is None:
            return None
        predictor.threshold = threshold
        image = image[..., ::-1].copy()
        return predictor.draw(image, predictor(image))[..., ::-1]

    page = gradio.Interface(
        predict, [gradio.Image(label='picture'), gradio.Slider(0, 1, predictor.threshold, label='threshold')],
        gradio.Image(label='prediction'), title='MambaVision', flagging_mode='never')
    return page.launch(**options)
