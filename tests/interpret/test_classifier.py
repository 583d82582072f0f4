import numpy as np
import pytest
import timm
import torch
from PIL import Image

import mmmambavision.timm_models  # noqa: F401  (timm knows the classifiers from here on)
from mmmambavision.interpret.classifier import Classifier

from ..helpers.messages import facts


@pytest.fixture(scope='module')
def classifier(tmp_path_factory):
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp('weights') / 'tiny.pth'
    torch.save(timm.create_model('mambavision_tiny', pretrained=False).state_dict(), file)
    return Classifier('mambavision_tiny', str(file), 'cpu')


@pytest.fixture(scope='module')
def prepared(classifier, tmp_path_factory):
    file = tmp_path_factory.mktemp('images') / 'a.png'
    Image.fromarray(np.full((30, 50, 3), (255, 0, 51), np.uint8)).save(file)
    return classifier.prepare(file)


def test_input(prepared):
    assert prepared.input.shape == (1, 3, 224, 224) and prepared.filled == (224, 224)
    expected = (np.array([1, 0, .2]) - [.485, .456, .406]) / [.229, .224, .225]
    np.testing.assert_allclose(prepared.input[0, :, 100, 7], expected, rtol=1e-5)


def test_logits(classifier, prepared):
    with torch.no_grad():
        logits = classifier.model(prepared.input)[0]
        best, words, box = classifier.explain(prepared)
        assert best(prepared.input) == logits.max() and box is None
        for name in ('207', 'golden retriever'):
            score, words, _ = classifier.explain(prepared, name)
            assert score(prepared.input) == logits[207] and words == 'logit of golden retriever'
    with pytest.raises(ValueError, match=facts('cup of', '999')):
        classifier.explain(prepared, 'cup of')
    with pytest.raises(ValueError, match='box'):
        classifier.explain(prepared, None, 0)


def test_untrained_is_another(classifier):
    own, other = classifier.model.state_dict(), classifier.untrained().state_dict()
    assert own.keys() == other.keys() and not torch.equal(own['head.weight'], other['head.weight'])


def test_unknown_model():
    with pytest.raises(ValueError, match=facts('resnet50', 'mambavision_tiny')):
        Classifier('resnet50', None, 'cpu')
