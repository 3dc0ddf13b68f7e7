"""Reconstructions of a masked autoencoder are drawn beside the images, by predictions and at each evaluation."""

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.runner import Runner
from PIL import Image

from convnext_backbone import ResumableRunner
from convnext_backbone.apis.builders import build_autoencoder
from convnext_backbone.apis.image_files import ImageFile
from convnext_backbone.apis.reconstruction import ReconstructionTask
from convnext_backbone.evaluation.reconstruction_pictures import GAP, GREY

MODEL = dict(
    type='MaskedAutoencoder',
    backbone=dict(type='ConvNeXt', arch=dict(depths=(1, 1, 1, 1), channels=(8, 8, 8, 8)), use_grn=True),
    decoder_dim=16,
)
HEIGHT, WIDTH = 64, 96


def make_images(number: int) -> list[np.ndarray]:
    return [*np.random.default_rng(0).integers(0, 256, (number, HEIGHT, WIDTH, 3), dtype=np.uint8)]


def assert_shows(picture: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Compare the panels of a picture with the image; returns where pixels are removed."""
    original, visible, reconstruction = (picture[:, i * (WIDTH + GAP) :][:, :WIDTH] for i in range(3))
    assert picture.shape == (HEIGHT, 3 * WIDTH + 2 * GAP, 3) and np.array_equal(original, image)
    removed = (visible == GREY).all(2)
    assert removed.sum() == 4 * 32 * 32  # of 6 patches two are visible
    for panel in (visible, reconstruction):
        assert np.abs(panel[~removed].astype(int) - image[~removed]).max() <= 1  # normalized and back
    assert (reconstruction[removed] != image[removed]).any()
    return removed


def test_predictions_show_what_is_visible_and_what_is_made_of_it(tmp_path):
    transform = dict(input_size=(3, HEIGHT, WIDTH), crop_pct=1.0)
    cfg = Config(dict(model=MODEL, test_dataloader=dict(dataset=dict(transform=transform)), default_scope='mmengine'))
    torch.manual_seed(0)
    torch.save(dict(state_dict=MODELS.build(MODEL).state_dict(), meta={}), tmp_path / 'weights.pth')
    task = ReconstructionTask(build_autoencoder(cfg, str(tmp_path / 'weights.pth')))
    files = [ImageFile(tmp_path / f'{i}.png', tmp_path / f'drawn/{i}.png') for i in range(2)]
    for file, image in zip(files, make_images(2), strict=True):
        Image.fromarray(image).save(file.image)
    predictions = task.predict(files)
    for prediction, image in zip(predictions, make_images(2), strict=True):
        removed = assert_shows(prediction['drawn'], image)
        (row,) = task.rows(prediction)
        assert row['mask'] == removed[::32, ::32].flatten().tolist() and row['loss'] > 0
        assert f'{row["loss"]:.3f}' in task.describe(prediction)
    alone = [task.predict([file])[0]['mask'] for file in files]
    assert alone == [one['mask'] for one in predictions] and alone[0] != alone[1]


def test_an_evaluation_draws_images_taken_evenly_from_all(tmp_path):
    images = make_images(5)
    data = [dict(inputs=torch.from_numpy(image).permute(2, 0, 1)) for image in images]
    runner = Runner(
        model=MODEL,
        work_dir=str(tmp_path),
        val_dataloader=dict(
            dataset=data, batch_size=2, sampler=dict(type='DefaultSampler', shuffle=False), collate_fn=stack
        ),
        val_evaluator=dict(type='ReconstructionMetric'),
        val_cfg=dict(),
        custom_hooks=[dict(type='ReconstructionsHook', number=3)],
        experiment_name='reconstructions',
    )
    runner.val()
    picture = np.asarray(Image.open(tmp_path / 'reconstructions.png'))
    assert picture.shape[0] == 3 * HEIGHT + 2 * GAP
    for i, image in enumerate(images[::2]):
        assert_shows(picture[i * (HEIGHT + GAP) :][:HEIGHT], image)


def test_tensors_of_any_number_of_channels_are_trained_on(tmp_path):
    """By a data set of one's own, which gives them and nothing else."""
    torch.manual_seed(0)
    data = [dict(inputs=torch.randint(0, 256, (5, HEIGHT, WIDTH), dtype=torch.uint8)) for _ in range(4)]
    normalization = dict(mean=[0.5] * 5, std=[0.25] * 5)
    loader = dict(dataset=data, batch_size=2, sampler=dict(type='DefaultSampler', shuffle=False), collate_fn=stack)
    runner = ResumableRunner(
        model={**MODEL, 'backbone': {**MODEL['backbone'], 'in_channels': 5}, 'data_preprocessor': normalization},
        work_dir=str(tmp_path),
        train_dataloader=loader,
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        val_dataloader=loader,
        val_evaluator=dict(type='ReconstructionMetric'),
        val_cfg=dict(),
        custom_hooks=[dict(type=name) for name in ('FiniteCheckHook', 'BrokenImagesHook', 'ReconstructionsHook')],
        experiment_name='channels',
    )
    before = runner.model.pred.weight.clone()
    runner.train()
    assert runner.iter == 2 and not torch.equal(runner.model.pred.weight, before)
    picture = np.asarray(Image.open(tmp_path / 'reconstructions.png'))
    assert np.array_equal(picture[:HEIGHT, :WIDTH], data[0]['inputs'][:3].permute(1, 2, 0))


def stack(samples: list[dict]) -> dict:
    return dict(inputs=torch.stack([sample['inputs'] for sample in samples]))
