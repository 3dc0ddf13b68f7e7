"""The masked autoencoder equals dense masked convolutions, and its encoder is a backbone's checkpoint."""

import re

import pytest
import torch
import torch.nn.functional as F
from families import randomized, sparse
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS
from torch import Tensor

from convnext_backbone import ARCHS, ArgumentError, ConvNeXt, ImageClassifier, MaskedAutoencoder, load_backbone
from convnext_backbone.models import visible_patches

VERSIONS = pytest.mark.parametrize('use_grn', [False, True], ids=['V1', 'V2'])
SMALL = dict(depths=(1, 2, 1, 1), channels=(8, 16, 24, 32))
GRID = (3, 4)
# Images of which different numbers of patches are visible: of one none, of one all.
RAGGED = torch.tensor(
    [[1, 1, 0, 1, 0, 1, 1, 0, 0, 1, 0, 1], [0, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1], [1] * 12, [0] * 12]
).bool()
Weights = dict[str, Tensor]


def make(arch: object = SMALL, use_grn: bool = True, mask_ratio: float = 0.6, **arguments) -> MaskedAutoencoder:
    """A model with random weights, of those too that begin as zero."""
    backbone = dict(type='ConvNeXt', arch=arch, use_grn=use_grn, layer_scale_init_value=1.0)
    return randomized(MaskedAutoencoder({**backbone, **arguments}, mask_ratio, decoder_dim=16))


def make_images(samples: int = len(RAGGED), channels: int = 3) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(samples, channels, 32 * GRID[0], 32 * GRID[1])


def layer_norm(w: Weights, name: str, x: Tensor) -> Tensor:
    mean, variance = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
    return (x - mean) / (variance + 1e-6).sqrt() * w[f'{name}.weight'][:, None, None] + w[f'{name}.bias'][:, None, None]


def convolve(w: Weights, name: str, x: Tensor, **arguments: int) -> Tensor:
    weight = w[f'{name}.weight']
    return F.conv2d(x, weight[..., None, None] if weight.ndim == 2 else weight, w[f'{name}.bias'], **arguments)


def block(w: Weights, name: str, x: Tensor, masked=lambda x: x) -> Tensor:
    """A block whose layers are each followed by the mask."""
    y = masked(convolve(w, f'{name}.dwconv', x, padding=3, groups=x.shape[1]))
    y = masked(layer_norm(w, f'{name}.norm', y))
    y = F.gelu(masked(convolve(w, f'{name}.pwconv1', y)))
    if f'{name}.grn.gamma' in w:
        norms = torch.linalg.vector_norm(y, dim=(2, 3), keepdim=True)  # to which masked positions add nothing
        gamma, beta = (w[f'{name}.grn.{part}'][:, None, None] for part in ('gamma', 'beta'))
        y = masked(gamma * y * norms / (norms.mean(1, keepdim=True) + 1e-6) + beta + y)
    y = masked(convolve(w, f'{name}.pwconv2', y))
    return x + y * w.get(f'{name}.gamma', y.new_ones(1))[:, None, None]


def encode_densely(w: Weights, images: Tensor, mask: Tensor) -> Tensor:
    """The definition: whole maps, and the mask after each layer."""
    rows, columns = (side // 32 for side in images.shape[2:])
    seen = 1.0 - mask.view(-1, 1, rows, columns).to(images.dtype)

    def masked(x: Tensor) -> Tensor:
        return x * F.interpolate(seen, scale_factor=x.shape[2] // rows, mode='nearest')

    x = masked(convolve(w, 'downsample_layers.0.0', images, stride=4))
    x = masked(layer_norm(w, 'downsample_layers.0.1', x))
    for i in range(4):
        if i:
            x = masked(layer_norm(w, f'downsample_layers.{i}.0', x))
            x = masked(convolve(w, f'downsample_layers.{i}.1', x, stride=2))
        for j in range(len({name.split('.')[2] for name in w if name.startswith(f'stages.{i}.')})):
            x = block(w, f'stages.{i}.{j}', x, masked)
    return x


def expected_loss(w: Weights, images: Tensor, mask: Tensor) -> Tensor:
    """The loss by its definition, of whole maps and all patches."""
    features = encode_densely({n.removeprefix('backbone.'): p for n, p in w.items()}, images, mask)
    grid = features.shape[2:]
    removed = mask.view(-1, 1, *grid)
    tokens = torch.where(removed, w['mask_token'].view(1, -1, 1, 1), convolve(w, 'proj', features))
    predicted = convolve(w, 'pred', block(w, 'decoder.0', tokens)).flatten(2)  # (N, 32 * 32 * channels, L)
    # The values of a patch are in the order row, column, channel.
    pixels = F.unfold(images, 32, stride=32).unflatten(1, (images.shape[1], -1)).transpose(1, 2).flatten(1, 2)
    target = (pixels - pixels.mean(1, keepdim=True)) / (pixels.var(1, keepdim=True) + 1e-6).sqrt()
    losses = (predicted - target).square().mean(1)
    return (losses * mask).sum() / mask.sum()


def exact_weights(model: torch.nn.Module) -> Weights:
    return {name: p.detach().double().requires_grad_() for name, p in model.named_parameters()}


def assert_near(names: list[str], found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    """Compare by norms, relative to the expected one."""
    for name, one, other in zip(names, found, expected, strict=True):
        assert (one - other).norm() <= tolerance * other.norm(), name


def assert_equal_to_dense(model: MaskedAutoencoder, images: Tensor, mask: Tensor, tolerance: float = 1e-5) -> None:
    """Compare outputs and all gradients with the definition in float64."""
    weights, exact = exact_weights(model.backbone), images.double().requires_grad_()
    images = images.clone().requires_grad_()
    expected, found = encode_densely(weights, exact, mask), model.encode(images, mask)
    assert found.shape == expected.shape
    gradient = torch.randn(expected.shape, dtype=torch.float64)
    theirs = torch.autograd.grad(expected, [exact, *weights.values()], gradient)
    ours = torch.autograd.grad(found, [images, *model.backbone.parameters()], gradient.to(found.dtype))
    assert_near(['output', 'images', *weights], [found, *ours], [expected, *theirs], tolerance)


@VERSIONS
@pytest.mark.parametrize('least_side', [1, 4, 16])
def test_outputs_and_gradients_equal_dense_masked_convolutions(use_grn, least_side, monkeypatch):
    """Also where all patches are convolved one by one, or none of them."""
    monkeypatch.setattr(visible_patches, 'LEAST_SIDE', least_side)
    monkeypatch.setattr(visible_patches, 'BAND', 10_000)
    assert_equal_to_dense(make(use_grn=use_grn), make_images(), RAGGED)


@VERSIONS
@pytest.mark.parametrize('arguments', [dict(fused=False), dict(with_cp=True)], ids=['plain', 'with_cp'])
def test_they_do_so_layer_by_layer_and_with_activation_checkpoints(use_grn, arguments):
    assert_equal_to_dense(make(use_grn=use_grn, **arguments), make_images(), RAGGED)


@pytest.mark.parametrize('arch', ['atto', *(pytest.param(arch, marks=pytest.mark.slow) for arch in ARCHS)])
@VERSIONS
def test_they_do_so_for_every_arch(arch, use_grn, request):
    depths, channels = ARCHS[arch]
    if channels[0] > 128 or not request.node.get_closest_marker('slow'):  # the widest take 16 GB and more
        depths = (1, 1, 1, 1)
    assert_equal_to_dense(make(dict(depths=depths, channels=channels), use_grn), make_images(2), RAGGED[:2])


@pytest.mark.parametrize('value', [7.0, torch.nan])
def test_nothing_of_a_masked_pixel_reaches_the_output(value):
    model, images = make(), make_images()
    hidden = RAGGED.view(-1, 1, *GRID).repeat_interleave(32, 2).repeat_interleave(32, 3)
    with torch.no_grad():
        found = model.encode(images, RAGGED)
        assert torch.equal(model.encode(images.masked_fill(hidden, value), RAGGED), found)
        assert not torch.equal(model.encode(images.masked_fill(~hidden, 7.0), RAGGED), found)
    assert torch.equal(found.flatten(2).any(1), ~RAGGED)  # zeros where patches are removed, and there alone


@VERSIONS
def test_images_without_a_mask_have_the_features_of_the_backbone(use_grn):
    model, images = make(use_grn=use_grn), make_images()
    with torch.no_grad():
        (expected,) = model.backbone(images)
        assert_near(['map'], [model.encode(images, torch.zeros_like(RAGGED))], [expected], tolerance=1e-5)


@VERSIONS
@pytest.mark.parametrize('channels', [3, 5])
def test_loss_and_its_gradients_are_those_of_the_definition(use_grn, channels):
    model, images = make(use_grn=use_grn, in_channels=channels), make_images(channels=channels)
    with torch.no_grad():
        torch.manual_seed(1)
        predictions = model(images, mode='predict')
    torch.manual_seed(1)
    loss = model(images, mode='loss')['loss']
    weights, mask = exact_weights(model), torch.stack([one['mask'] for one in predictions])
    expected = expected_loss(weights, images.double(), mask)
    gradients = torch.autograd.grad(loss, [*model.parameters()])
    theirs = torch.autograd.grad(expected, [*weights.values()])
    assert_near(['loss', *weights], [loss, *gradients], [expected, *theirs], tolerance=1e-5)
    assert torch.stack([one['loss'] for one in predictions]).mean() == pytest.approx(loss.item())


def test_a_reconstruction_has_the_visible_patches_and_undoes_the_normalization():
    model, images = make(), make_images() * 3 + 5
    torch.manual_seed(1)
    with torch.no_grad():
        predictions = model(images, mode='predict')
        torch.manual_seed(1)
        patches = model(images)
    for image, prediction, predicted in zip(images, predictions, patches, strict=True):
        squares = [
            one.unflatten(1, (GRID[0], 32)).unflatten(3, (GRID[1], 32)).permute(1, 3, 2, 4, 0).flatten(0, 1).flatten(1)
            for one in (image, prediction['reconstruction'])
        ]
        real, shown = (square[prediction['mask']] for square in squares)
        assert torch.equal(squares[0][~prediction['mask']], squares[1][~prediction['mask']])
        expected = predicted * real.std(1, keepdim=True) + real.mean(1, keepdim=True)
        torch.testing.assert_close(shown, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ('ratio', 'size', 'visible'), [(0.6, (224, 224), 19), (0.75, (32, 128), 1), (0.9, (64, 160), 1)]
)
def test_each_image_has_a_mask_of_its_own_which_the_seed_decides_in_training(ratio, size, visible):
    model, images = make(mask_ratio=ratio).train(), torch.randn(8, 3, *size)
    masks = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        with torch.no_grad():
            masks.append(torch.stack([one['mask'] for one in model(images, mode='predict')]))
    assert torch.equal(masks[0], masks[1]) and not torch.equal(masks[0], masks[2])
    assert all((~mask).sum(1).eq(visible).all() for mask in masks)
    assert len(masks[0].unique(dim=0)) > 1


def test_an_evaluation_masks_an_image_always_in_the_same_way():
    """Whatever the seed, the batch and its place there; random numbers are as before, and images differ."""
    model, images = make(), make_images(8)
    results = []
    for seed, order in ((0, range(8)), (1, range(8)), (2, (5, 0, 3)), (3, (7,))):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        with torch.no_grad():
            found = model(images[[*order]], mode='predict')
        assert torch.equal(torch.get_rng_state(), before)
        results.append(dict(zip(order, found, strict=True)))
    first, again, *parts = results
    assert all(torch.equal(first[i][name], again[i][name]) for i in first for name in first[i])
    for part in parts:
        for i, found in part.items():
            assert torch.equal(found['mask'], first[i]['mask'])
            assert found['loss'].item() == pytest.approx(first[i]['loss'].item(), rel=1e-5)
    assert len(torch.stack([first[i]['mask'] for i in first]).unique(dim=0)) > 4


@VERSIONS
def test_stochastic_depth_drops_the_same_images_as_layer_by_layer(use_grn):
    results = []
    for fused in (True, False):
        model = make(use_grn=use_grn, drop_path_rate=0.5, fused=fused).train()
        torch.manual_seed(3)
        loss = model(make_images(), mode='loss')['loss']
        results.append([loss, *torch.autograd.grad(loss, [*model.parameters()])])
    names = ['loss', *(name for name, _ in model.named_parameters())]
    assert_near(names, *results, tolerance=1e-4)


def test_autocast():
    model, images = make(), make_images()
    with torch.no_grad():
        exact = model.encode(images, RAGGED)
        with torch.autocast('cpu', torch.bfloat16):
            found = model.encode(images, RAGGED)
    assert_near(['map'], [found], [exact], tolerance=0.02)


@VERSIONS
def test_values_of_visible_positions_alone_are_kept_for_backward(use_grn):
    def count(run) -> int:
        kept: dict[int, int] = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: kept.update({t.data_ptr(): t.numel() * t.is_floating_point()}) or t, lambda t: t
        ):
            run()
        own = {p.data_ptr() for p in model.parameters()}
        return sum(number for address, number in kept.items() if address not in own)

    model, images = make(use_grn=use_grn), torch.randn(2, 3, 320, 320)
    mask = torch.ones(2, 100).bool()
    mask[:, :20] = False
    assert count(lambda: model.encode(images, mask)) < 0.25 * count(lambda: model.backbone(images))


@pytest.mark.parametrize('channels', [3, 5])
def test_a_training_step_of_the_engine(channels):
    """On bytes of any number of channels, as a data set gives them."""
    normalization = dict(mean=[0.5] * channels, std=[0.1 * (i + 1) for i in range(channels)])
    backbone = dict(type='ConvNeXt', arch=SMALL, use_grn=True, in_channels=channels)
    model = randomized(MaskedAutoencoder(backbone, decoder_dim=16, data_preprocessor=normalization)).train()
    before = [p.clone() for p in model.parameters()]
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    images = torch.randint(0, 256, (2, channels, 64, 96), dtype=torch.uint8)
    losses = model.train_step(dict(inputs=images, labels=torch.zeros(2, dtype=torch.long)), optimizer)
    assert losses['loss'] > 0 and all(
        not torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True)
    )


@VERSIONS
def test_a_checkpoint_is_one_of_the_backbone_without_conversion(use_grn, tmp_path):
    model, path = make(use_grn=use_grn), tmp_path / 'epoch_1.pth'
    torch.save(dict(state_dict=model.state_dict(), meta={}), path)
    expected = model.backbone.state_dict()
    settings = dict(arch=SMALL, use_grn=use_grn)
    pretrained = dict(type='Pretrained', checkpoint=str(path))
    detector = MODELS.build(dict(type='ConvNeXt', init_cfg=pretrained, **settings))  # as a detector builds it
    classifiers = [
        ImageClassifier(dict(type='ConvNeXt', init_cfg=pretrained, **settings), num_classes=5),
        ImageClassifier(dict(type='ConvNeXt', **settings), num_classes=5, init_cfg=pretrained),
    ]
    for one in (detector, *classifiers):
        one.init_weights()
    report = load_backbone(loaded := ConvNeXt(**settings), path)
    assert not report.missing and not report.unexpected
    for backbone in (detector, loaded, *(classifier.backbone for classifier in classifiers)):
        state = backbone.state_dict()
        assert expected.keys() == {name for name in state if not re.match(r'norm\d', name)}
        assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())
    again = make(use_grn=use_grn)
    again.load_state_dict(torch.load(path, weights_only=True)['state_dict'])


def test_a_normalization_for_another_number_of_channels_is_named():
    images = torch.zeros(1, 5, 64, 64, dtype=torch.uint8)
    with pytest.raises(ArgumentError, match='The images have 5 channels, but mean of model.data_preprocessor has 3'):
        make(in_channels=5).val_step(dict(inputs=images))


def test_published_weights_in_the_sparse_form_give_the_same_features(tmp_path):
    source, images = make(), make_images()
    path = tmp_path / 'fcmae.pt'
    encoder = dict(sparse(name, tensor) for name, tensor in source.backbone.state_dict().items())
    decoder = {'proj.weight': torch.ones(512, 32, 1, 1), 'mask_token': torch.ones(1, 512, 1, 1)}
    decoder |= {'decoder.0.dwconv.weight': torch.ones(512, 1, 7, 7), 'decoder.0.grn.gamma': torch.ones(1, 1, 1, 2048)}
    torch.save(dict(model={f'encoder.{name}': tensor for name, tensor in encoder.items()} | decoder), path)
    pretrained = dict(type='Pretrained', checkpoint=str(path))
    model = MaskedAutoencoder(dict(type='ConvNeXt', arch=SMALL, use_grn=True, init_cfg=pretrained))
    model.init_weights()
    load_backbone(backbone := ConvNeXt(SMALL, use_grn=True, out_indices=3, out_norm=False).eval(), path)
    with torch.no_grad():
        assert torch.equal(model.eval().encode(images, RAGGED), source.encode(images, RAGGED))
        assert torch.equal(backbone(images)[0], source.backbone(images)[0])


@pytest.mark.parametrize(
    ('run', 'said'),
    [
        (lambda: make(mask_ratio=1.0), 'mask_ratio=1.0 is out of range'),
        (
            lambda: MaskedAutoencoder(dict(type='ConvNeXt', arch=SMALL), patch_size=16),
            'patch_size=16 is not the stride',
        ),
        (lambda: MaskedAutoencoder(dict(type='ConvNeXtIsotropic')), "backbone is 'ConvNeXtIsotropic'"),
        (lambda: make()(torch.zeros(1, 3, 64, 100)), '64x100 pixels.*multiples of 32'),
        (lambda: make()(torch.zeros(1, 4, 64, 64)), 'in_channels'),
        (lambda: make()(torch.zeros(1, 3, 32, 64)), 'leaves 0 of 2 patches.*larger images'),
        (lambda: make().encode(torch.zeros(1, 3, 64, 64), torch.zeros(1, 4)), r'float32 .*\(1, 4\)'),
        (lambda: make().encode(torch.zeros(1, 3, 64, 64), torch.zeros(1, 5).bool()), r'\(1, 5\).*\(1, 4\)'),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(run, said):
    with pytest.raises(ArgumentError, match=said):
        run()
