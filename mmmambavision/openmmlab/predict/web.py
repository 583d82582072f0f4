"""A web page for predictions on uploaded pictures."""
from ...errors import UserError


def serve(predictor, **options):
    """Open the page and wait for Ctrl-C. `options` go to gradio's `launch`.

    Raises:
        UserError: gradio is not installed.
    """
    try:
        import gradio
    except ImportError:
        raise UserError('the web page needs gradio: pip install gradio') from None

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
