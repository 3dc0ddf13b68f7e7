"""What stands in the place of ``mmcv._ext``: every name that ``mmcv.ops`` looks for there.

The functions that mmdet and mmsegmentation use work; the others say what to do when they are called.
"""

# ruff: noqa: F401  the names that are imported here are what this module is for

from collections.abc import Callable
from typing import NoReturn

import torch

from .deform_conv import (
    deform_conv_backward_input,
    deform_conv_backward_parameters,
    deform_conv_forward,
    modulated_deform_conv_backward,
    modulated_deform_conv_forward,
)
from .focal_loss import (
    sigmoid_focal_loss_backward,
    sigmoid_focal_loss_forward,
    softmax_focal_loss_backward,
    softmax_focal_loss_forward,
)
from .ms_deform_attn import ms_deform_attn_backward, ms_deform_attn_forward
from .nms import bbox_overlaps, line_nms_forward, nms, nms_match, softnms
from .rearrange import (
    carafe_backward,
    carafe_forward,
    carafe_naive_backward,
    carafe_naive_forward,
    masked_col2im_forward,
    masked_im2col_forward,
    psamask_backward,
    psamask_forward,
)
from .roi import roi_align_backward, roi_align_forward, roi_pool_backward, roi_pool_forward


def get_compiler_version() -> str:
    """What mmdet prints about its environment: that nothing was compiled."""
    return 'none: operators by convnext_backbone and torchvision'


def get_compiling_cuda_version() -> str:
    """The CUDA version of the operators, which is that of torch and torchvision."""
    return torch.version.cuda or 'not available'


# Neither mmdet nor mmsegmentation calls these.
LEFT_OUT = {
    'rotated boxes': """
        active_rotated_filter_backward active_rotated_filter_forward box_iou_quadri box_iou_rotated convex_giou
        convex_iou diff_iou_rotated_sort_vertices_forward min_area_polygons nms_quadri nms_rotated
        points_in_polygons_forward riroi_align_rotated_backward riroi_align_rotated_forward roi_align_rotated_backward
        roi_align_rotated_forward rotated_feature_align_backward rotated_feature_align_forward""",
    'detection in 3D': """
        assign_score_withk_backward assign_score_withk_forward ball_query_forward chamfer_distance_backward
        chamfer_distance_forward dynamic_point_to_voxel_backward dynamic_point_to_voxel_forward
        dynamic_voxelize_forward furthest_point_sampling_forward furthest_point_sampling_with_dist_forward
        fused_indice_conv_forward gather_points_backward gather_points_forward get_indice_pairs_2d_backward
        get_indice_pairs_2d_forward get_indice_pairs_3d_backward get_indice_pairs_3d_forward
        get_indice_pairs_4d_forward group_points_backward group_points_forward hard_voxelize_forward
        indice_conv_backward indice_conv_forward indice_maxpool_backward indice_maxpool_forward
        iou3d_boxes_overlap_bev_forward iou3d_nms3d_forward iou3d_nms3d_normal_forward knn_forward
        points_in_boxes_all_forward points_in_boxes_cpu_forward points_in_boxes_part_forward
        roiaware_pool3d_backward roiaware_pool3d_forward roipoint_pool3d_forward stack_ball_query_forward
        stack_group_points_backward stack_group_points_forward three_interpolate_backward three_interpolate_forward
        three_nn_forward""",
    'reading text': 'bezier_align_backward bezier_align_forward contour_expand pixel_group',
    'other kinds of pooling': """
        border_align_backward border_align_forward deform_roi_pool_backward deform_roi_pool_forward
        prroi_pool_backward prroi_pool_coor_backward prroi_pool_forward""",
    'generating images': 'bias_act filtered_lrelu filtered_lrelu_act_ fused_bias_leakyrelu upfirdn2d',
    'video': 'correlation_backward correlation_forward tin_shift_backward tin_shift_forward',
    "mmcv's own SyncBN, for which torch has nn.SyncBatchNorm": """
        sync_bn_backward_data sync_bn_backward_param sync_bn_forward_mean sync_bn_forward_output
        sync_bn_forward_var""",
}


def _left_out(name: str, purpose: str) -> Callable[..., NoReturn]:
    def refuse(*args: object, **kwargs: object) -> NoReturn:
        raise NotImplementedError(
            f'mmcv._ext.{name} (for {purpose}) is not among the operators that convnext_backbone gives to mmcv: '
            'install mmcv with its compiled operators, as docs/operators.md says.'
        )

    refuse.__name__ = refuse.__qualname__ = name
    return refuse


globals().update({name: _left_out(name, purpose) for purpose, names in LEFT_OUT.items() for name in names.split()})
