"""What the papers say that the configs' models cost, beside what they cost here, and the README's table of configs.

Published numbers: "A ConvNet for the 2020s" (arXiv 2201.03545) and its official code; V2's "ConvNeXt V2" (2301.00808).
"""

import re
from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config

from ..config.load import load_config
from .complexity import Complexity, count_complexity


class Published(NamedTuple):
    """A model, by the name of its config, and what a paper says that it costs; None where no paper says so.

    Parameters are in millions, multiply-adds in thousands of millions. Without a config, ``v2_arch`` says which
    classifier of ConvNeXt V2 it is.
    """

    name: str
    parameters: float | None = None
    gflops: float | None = None
    v2_arch: str | None = None


ZOO = (
    # COCO at 1280x800 (2201.03545, table 3 and appendix)
    Published('mask_rcnn_convnext_t_coco', 48, 262),
    Published('cascade_convnext_t_coco', 86, 741),
    Published('cascade_convnext_s_coco', 108, 827),
    Published('cascade_convnext_b_coco', 146, 964),
    Published('cascade_convnext_b_22k_coco', 146, 964),
    Published('cascade_convnext_l_22k_coco', 255, 1354),
    Published('cascade_convnext_xl_22k_coco', 407, 1898),
    Published('cascade_convnext_v2_atto_coco'),
    Published('cascade_convnext_v2_nano_coco'),
    Published('cascade_convnext_v2_t_coco'),
    Published('cascade_convnext_v2_b_coco'),
    Published('cascade_convnext_v2_l_coco'),
    Published('cascade_dinov3_convnext_t_coco'),
    # ADE20K at 2048x512, from ImageNet-22K 2560x640 (2201.03545, table 4 and appendix)
    Published('upernet_convnext_t_ade20k', 60, 939),
    Published('upernet_convnext_s_ade20k', 82, 1027),
    Published('upernet_convnext_b_ade20k', 122, 1170),
    Published('upernet_convnext_b_22k_ade20k', 122, 1828),
    Published('upernet_convnext_l_22k_ade20k', 235, 2458),
    Published('upernet_convnext_xl_22k_ade20k', 391, 3335),
    Published('upernet_dinov3_convnext_t_ade20k'),
    # ImageNet (2201.03545, table 1; isotropic: table 2)
    Published('pretrain_convnext_t_imagenet', 28.59, 4.46),
    Published('pretrain_convnext_s_imagenet', 50.22, 8.69),
    Published('pretrain_convnext_b_imagenet', 88.59, 15.36),
    Published('pretrain_convnext_l_imagenet', 197.77, 34.37),
    Published('pretrain_isotropic_s_imagenet', 22, 4.3),
    Published('pretrain_isotropic_b_imagenet', 87, 16.9),
    Published('pretrain_isotropic_l_imagenet', 306, 59.7),
    Published('finetune_convnext_b_384_imagenet', 88.59, 45.0),
    Published('finetune_convnext_l_384_imagenet', 197.77, 101.0),
    Published('finetune_convnext_t_22k_224_imagenet', 28.59, 4.46),
    Published('finetune_convnext_s_22k_224_imagenet', 50.22, 8.69),
    Published('finetune_convnext_b_22k_224_imagenet', 88.59, 15.36),
    Published('finetune_convnext_l_22k_224_imagenet', 197.77, 34.37),
    Published('finetune_convnext_xl_22k_224_imagenet', 350.20, 60.93),
    Published('finetune_convnext_t_22k_384_imagenet', 28.59),
    Published('finetune_convnext_s_22k_384_imagenet', 50.22),
    Published('finetune_convnext_b_22k_384_imagenet', 88.59, 45.0),
    Published('finetune_convnext_l_22k_384_imagenet', 197.77, 101.0),
    Published('finetune_convnext_xl_22k_384_imagenet', 350.20, 179.0),
    Published('pretrain_convnext_t_imagenet22k'),
    Published('pretrain_convnext_s_imagenet22k'),
    Published('pretrain_convnext_b_imagenet22k'),
    Published('pretrain_convnext_l_imagenet22k'),
    Published('pretrain_convnext_xl_imagenet22k'),
    Published('probe_convnext_t_imagenet'),
    # ImageNet at 224 pixels (2301.00808, appendix)
    Published('ConvNeXt V2 atto', 3.7, 0.55, 'atto'),
    Published('ConvNeXt V2 femto', 5.2, 0.78, 'femto'),
    Published('ConvNeXt V2 pico', 9.1, 1.37, 'pico'),
    Published('ConvNeXt V2 nano', 15.6, 2.45, 'nano'),
    Published('ConvNeXt V2 tiny', 28.6, 4.47, 'tiny'),
    Published('ConvNeXt V2 base', 89, 15.4, 'base'),
    Published('ConvNeXt V2 large', 198, 34.4, 'large'),
    Published('ConvNeXt V2 huge', 660, 115, 'huge'),
)


class Entry(NamedTuple):
    """A model of the zoo, its config, and what it costs."""

    published: Published
    cfg: Config
    cost: Complexity

    @property
    def difference(self) -> float | None:
        """By how many percent our multiply-adds are more than the paper's."""
        gflops = self.published.gflops
        return gflops and 100 * (self.cost.total.multiply_adds / 1e9 / gflops - 1)


def count_published(published: Published, configs: Path) -> Entry:
    """Counts a model of :data:`ZOO` on images of the size that its published numbers are for.

    Args:
        published: One of them.
        configs: The folder of the configs.
    """
    if published.v2_arch is None:
        cfg = load_config(configs / f'{published.name}.py')
        return Entry(published, cfg, count_complexity(cfg))
    backbone = dict(type='ConvNeXt', arch=published.v2_arch, use_grn=True)
    cfg = Config(dict(default_scope='mmengine', model=dict(type='ImageClassifier', backbone=backbone)))
    return Entry(published, cfg, count_complexity(cfg, (224, 224)))


MARKDOWN_HEAD = (
    '| config | published | parameters | GFLOPs | image | memory, GiB | starts from |\n'
    '| --- | --- | --- | --- | --- | --- | --- |'
)


def markdown_row(entry: Entry, configs: Path) -> str:
    """A config's row of the README's table; its published score is what its own first line says."""
    name, cfg = entry.published.name, entry.cfg
    purpose = (configs / f'{name}.py').read_text(encoding='utf-8').partition('\n')[0]
    stated = re.search(r'(?:Published: (.+)|Ours, .+)\.$', purpose)
    gflops = entry.cost.total.multiply_adds / 1e9
    height, width = entry.cost.shape
    cells = (
        f'[{name}](configs/{name}.py)',
        stated[1] or 'ours' if stated else '',
        f'{entry.cost.total.parameters / 1e6:.1f}M',
        f'{gflops:.2f}' if gflops < 100 else f'{gflops:.0f}',
        f'{width}x{height}',
        f'{entry.cost.memory.model / 2**30:.2f} + {entry.cost.memory.image / 2**30:.2f} n',
        weights_link(cfg.model),
    )
    return f'| {" | ".join(cells)} |'


def weights_link(model: dict) -> str:
    """A link to the weights that a model or its backbone starts from."""
    init_cfg = model.get('init_cfg') or model['backbone'].get('init_cfg')
    if init_cfg is None:
        return 'random weights'
    address = init_cfg['checkpoint']
    if hub := re.match('hf://([^/]+/([^/]+))/', address):
        return f'[{hub[2]}](https://huggingface.co/{hub[1]})'
    return f'[{Path(address).name}]({address})'
