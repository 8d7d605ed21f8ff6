"""Every knob once, with its unit and its source; a recipe imports this and changes a few.

Values are those of the ROG paper (ICCV 2023, section 4.1) and of its published configs, which follow MMDetection 2.25's
Mask R-CNN; where the two differ, the published config is taken and the comment says so.

Settings without a value (`placeholder`, or "auto") are what belongs to the classification loss, unless a recipe or the
command line sets them: `rog_jax/models/recipe.py` has the table.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config() -> ConfigDict:
    """Settings common to all recipes; paths and `model.num_classes` are a recipe's to set."""
    config = ConfigDict()
    # Weights and their conventions to start from: a folder written by rog_jax.tools.import_weights, another run's (its
    # newest checkpoint), or RUN/best.
    config.init_from = ""
    config.data = _data()
    config.sampler = _sampler()
    config.model = _model()
    config.rpn = _rpn()
    config.roi = _roi()
    config.loss = _loss()
    config.optim = _optim()
    config.train = _train()
    config.test = _test()
    return config


def variants_of(text: str, known: set[str], contradictions: tuple[set[str], ...]) -> set[str]:
    """The variants of a recipe that were asked for, separated by commas.

    Raises:
        ValueError: an unknown variant, or two that contradict each other.
    """
    chosen = set(text.split(","))
    if chosen - known:
        raise ValueError(f"unknown variant {', '.join(sorted(chosen - known))}; choose of {', '.join(sorted(known))}")
    for pair in contradictions:
        if pair <= chosen:
            raise ValueError(f"variants {' and '.join(sorted(pair))} contradict each other; choose one of them")
    return chosen


def _data() -> ConfigDict:
    data = ConfigDict()
    data.source = ""  # tfds:NAME (tfds:lvis, tfds:coco/2017): a data set that TFDS has prepared; empty: the files below
    data.format = "lvis"  # lvis | coco | openimages: how train_json and val_json are read
    data.train_json = ""  # annotations of the training images: a json, or OpenImages's CSV of boxes
    data.train_images = ""  # folder that the file names (or the tails of coco_url) are relative to
    data.val_json = ""
    data.val_images = ""
    data.frequency_limits = (10, 100)  # most training images of a rare and of a common category; stated groups stay
    data.train_packed = ""  # folder written by rog_jax.tools.pack_images, read instead of the image files
    data.val_packed = ""
    data.tfds_dir = ""  # where TFDS keeps its data sets; empty: its own default
    data.train_split = "train"  # of TFDS
    data.val_split = "validation"
    data.openimages = ConfigDict()
    data.openimages.classes_csv = ""  # LabelName, DisplayName
    data.openimages.hierarchy_json = ""  # empty: none
    data.openimages.train_labels_csv = ""  # verified labels of images; empty: none
    data.openimages.val_labels_csv = ""
    data.openimages.train_sizes_csv = ""  # ImageID, Width, Height; empty: sizes are read from the image files, once
    data.openimages.val_sizes_csv = ""
    data.openimages.expand = False  # boxes and labels of ancestors are added
    data.openimages.train_group_of = True  # group-of boxes are objects of training (MMDetection)
    data.shapes = ((832, 1344), (1344, 832))  # padded (height, width), pixels; an image takes the smallest it fits
    data.short_sides = (640, 672, 704, 736, 768, 800)  # training scale jitter: the short side is one of these, pixels
    data.max_long_side = 1333  # pixels
    data.test_short_side = 800  # pixels
    data.flip = 0.5  # probability of a horizontal flip in training
    data.scale_jitter = ()  # (0.1, 2.0): large-scale jitter instead of short_sides; 1 just fits the padded shape
    data.crop = 0.0  # probability of a random crop in training; one object's centre stays in
    data.crop_shares = (0.5, 1.0)  # smallest and largest share of each side that a crop leaves
    data.photometric = 0.0  # probability of random brightness, contrast, saturation and hue (SSD's strengths)
    data.copy_paste = ConfigDict()
    data.copy_paste.probability = 0.0  # that objects of another training image are pasted onto an image
    data.copy_paste.even = False  # pasted are objects of a category drawn evenly: rare ones far more than they occur
    data.copy_paste.max_objects = 10  # pasted onto an image
    data.max_objects = 300  # ground truths an image; more are left out at random, and counted
    data.negatives = False  # batches say which categories are verified in each image, for federated losses
    data.keep_empty_images = False  # images without an object take part in training
    data.min_image_side = 32  # training images with a shorter side are left out, in pixels, as MMDetection does
    data.workers = 4  # loader processes; 0 reads in the training process
    data.prefetch = 2  # batches that each worker keeps ready
    data.max_unreadable = 100  # unreadable images after which a run stops
    data.max_restarts = 3  # times that dead loader processes are started again, in one start of a run
    return data


def _sampler() -> ConfigDict:
    sampler = ConfigDict()
    # random | repeat_factor | instance_aware (factors from images and objects) | class_aware (categories evenly, then
    # images) | bi_level (categories evenly, then objects)
    sampler.name = "repeat_factor"
    sampler.threshold = 1e-3  # t of the two kinds of factors: categories of a smaller share are repeated
    sampler.rounding = "ceil"  # of factors: ceil (MMDetection, the paper) | stochastic (Detectron2)
    return sampler


def _model() -> ConfigDict:
    model = ConfigDict()
    model.num_classes = 0  # foreground categories; 0 takes the number in the training json
    model.depth = 50  # ResNet depth: 18, 34, 50 or 101
    model.width = 64  # channels of the stem; 64 is the published ResNet
    model.norm = "frozen_batch"  # frozen_batch (pretrained weights) | group (training from scratch)
    model.norm_trained = True  # scale and bias of frozen_batch are trained (MMDetection), or buffers (the others)
    model.stride_in_1x1 = False  # a block's stride in its first 1x1 (Caffe, MSRA weights), not in its 3x3
    model.frozen_stages = 1  # the stem and this many stages get no gradient; -1 trains all
    model.trained_parts = placeholder(
        tuple
    )  # beginnings of paths such as "mask_head", "box_head/deltas"; () trains all
    model.fpn_channels = 256
    model.fpn_extra_level = "max_pool"  # max_pool | on_input | on_output: a stride-2 convolution of C5 or P5
    model.masks = True  # False is Faster R-CNN
    model.box_clamp = "both"  # both (MMDetection) | above (the others): where dw, dh are limited at ln(1000 / 16)
    model.dtype = "bfloat16"  # features and convolutions; losses, boxes and ranking are float32 whatever this says
    model.pixel_order = "rgb"  # rgb | bgr: channels as the network reads them, and as mean and std stand here
    model.pixel_mean = (123.675, 116.28, 103.53)  # of pixels in 0..255
    model.pixel_std = (58.395, 57.12, 57.375)
    return model


def _rpn() -> ConfigDict:
    rpn = ConfigDict()
    rpn.anchor_scale = 8.0  # an anchor's side in units of its level's stride
    rpn.ratios = (0.5, 1.0, 2.0)  # height / width
    rpn.anchor_rounding = False  # corners of a cell's anchors rounded to whole pixels (torchvision)
    rpn.anchor_offset = 0.0  # of an anchor's centre from its cell's corner, in strides
    rpn.anchor_strides = "level"  # level | image: sides of image and level divided, rounded down (torchvision)
    rpn.box_stds = (1.0, 1.0, 1.0, 1.0)  # of the deltas (dx, dy, dw, dh)
    rpn.positive_iou = 0.7
    rpn.negative_iou = 0.3
    # An object's best anchors below positive_iou: reassign (MMDetection: positive for this object) | keep (Detectron2,
    # torchvision: positive for the object that they overlap most) | none.
    rpn.low_quality = "reassign"
    rpn.min_positive_iou = 0.3  # from which low_quality counts
    rpn.samples = 256  # anchors an image in the loss
    rpn.positive_fraction = 0.5
    rpn.smooth_l1_beta = 0.0  # 0 is plain L1
    rpn.loss_divisor = "sampled"  # sampled (anchors drawn) | samples (rpn.samples, drawn or not: Detectron2)
    rpn.nms_iou = 0.7
    rpn.min_size = 0.0  # boxes with a side not longer are no proposals, pixels
    rpn.proposals_per_level = 0  # per image after the NMS of a level, 0 for any number
    rpn.train_pre_nms = 2000  # per level
    rpn.train_proposals = 1000  # per image, all levels
    rpn.test_pre_nms = 1000
    rpn.test_proposals = 1000
    return rpn


def _roi() -> ConfigDict:
    roi = ConfigDict()
    roi.samples = 512  # proposals an image in the losses
    roi.positive_fraction = 0.25
    roi.positive_iou = 0.5
    roi.low_quality = "reassign"  # reassign (MMDetection) | none (the others)
    roi.box_pool = 7  # cells a side
    roi.mask_pool = 14  # cells a side; masks are predicted and learnt at twice as many
    roi.sampling_ratio = 2  # points a side in each cell of RoIAlign; 0: one a feature cell (MMDetection, Detectron2)
    roi.max_sampling_ratio = 8  # most points a side of sampling_ratio 0
    roi.aligned = True  # half a feature cell's shift in RoIAlign; False is torchvision's older rule
    roi.level_epsilon = 1e-6  # added before the logarithm that chooses a box's level
    roi.align_method = "auto"  # gather | windows | auto
    roi.box_stds = (0.1, 0.1, 0.2, 0.2)  # of the deltas (dx, dy, dw, dh)
    roi.class_agnostic_boxes = False
    roi.class_agnostic_masks = False
    roi.smooth_l1_beta = 0.0  # 0 is plain L1
    roi.mask_targets = "binary"  # binary | soft: shares of a cell (torchvision)
    roi.predictor = "auto"  # auto (the classification loss's own) | linear | normed
    roi.mask_predictor = "auto"  # auto (the one that belongs to the classification loss) | conv | normed
    roi.temperature = 20.0  # of normed predictors
    roi.hidden = 1024  # units of the two shared layers of the box head
    roi.init = "auto"  # of all box layers but the classifier: auto | mmdet (Xavier, normal) | pytorch (uniform)
    roi.mask_channels = 256
    roi.mask_convs = 4
    return roi


def _loss() -> ConfigDict:
    loss = ConfigDict()
    # sigmoid_ce | softmax_ce | eql | eqlv2 | seesaw | ecm | gol | droploss | eql_gumbel | gumbel_ce | loce | federated,
    # or none: trained by the ranking loss alone. A section of the loss's name has its options.
    loss.classification = "sigmoid_ce"
    loss.ranking = "gap"  # none | gap | ap | rank_sort
    loss.gap = _gap()
    loss.ap = ConfigDict()
    loss.ap.weight = 1.0
    loss.ap.delta = 1.0  # half width of the ranking step, in units of the logit
    loss.ap.scope = "device"  # as gap.scope
    loss.rank_sort = ConfigDict()
    loss.rank_sort.weight = 1.0
    loss.rank_sort.delta = 0.5
    loss.rank_sort.scope = "device"
    # Boxes by GIoU and masks by Dice, weighted by the scores, each as large as the ranking loss (Rank & Sort, 3.4).
    loss.rank_sort.balance_heads = False
    loss.frequency = "images"  # of a class, for eql, gol and the like: images (their share) | instances (their number)
    for name in ("eql", "gol", "droploss", "eql_gumbel"):
        loss[name] = ConfigDict({"threshold": 1.1e-3})  # classes with a smaller frequency are rare; OpenImages: 1652
    loss.eqlv2 = ConfigDict({"gamma": 12.0, "mu": 0.8, "alpha": 4.0})
    # synchronise: counts over all devices, or each device's own as the published code has it
    loss.seesaw = ConfigDict({"p": 0.8, "q": 2.0, "eps": 0.01, "synchronise": True})
    loss.ecm = ConfigDict({"background_ratio": 6.3313})  # background rows for each object in training
    # negatives: sampled (Detectron2) | verified (the classes annotated or known to be absent, image by image)
    loss.federated = ConfigDict({"num_sample_cats": 50, "frequency_power": 0.5, "negatives": "sampled"})
    loss.loce = ConfigDict({"alpha": 0.9})  # share of a mean score that one value leaves
    loss.memory = _memory()
    return loss


def _gap() -> ConfigDict:
    gap = ConfigDict()
    gap.weight = 0.1  # lambda_gap: 0.1 with repeat factor sampling, 1.0 with random sampling (section 4.1)
    gap.gamma = 1.0  # exponent of omega
    gap.delta = 0.5  # half width of the ranking step, in units of the logit
    gap.variant = "paper"  # paper | published
    gap.method = "auto"  # interval, on TPUs one_hot | interval | one_hot | dense (docs/performance.md)
    gap.exclude_foreground = True  # leave other positives out of the negatives (Excl. FG of Table 4)
    gap.scope = "device"  # rank over the images of a device (as the authors) | global
    gap.counts_scope = "global"  # over all devices | device (as the authors; on other devices shared anew)
    gap.omega = "online"  # online | offline (the training json's instance counts) | none
    return gap


def _memory() -> ConfigDict:
    memory = ConfigDict()  # LOCE's feature memory, one on each device: 2.4 GB in bfloat16 for LVIS
    memory.slots = 80  # features kept of each class; 0 is LOCE without its memory
    memory.classes = 8  # classes drawn in a step, rarely recognised ones more often
    memory.features = 4  # features drawn of each
    memory.objects = 32  # truths of an image that are looked at, chosen at random
    memory.fill = True  # one pass over the first epoch's images before training, which stores their features
    return memory


def _optim() -> ConfigDict:
    optim = ConfigDict()
    optim.lr = 0.02  # for a global batch of `lr_batch_size`; scaled linearly with train.batch_size
    optim.lr_batch_size = 16
    optim.momentum = 0.9
    optim.weight_decay = 1e-4
    optim.warmup_steps = placeholder(int)
    optim.warmup_ratio = placeholder(float)  # of the first step's learning rate
    optim.milestones = placeholder(tuple)  # in units of `milestone_unit`
    optim.milestone_unit = "epochs"  # epochs | steps
    optim.decay = 0.1  # factor at each milestone
    optim.clip_norm = placeholder(float)  # L2 norm of the whole gradient, 0 for none
    return optim


def _train() -> ConfigDict:
    train = ConfigDict()
    train.batch_size = 16  # images a step over all devices
    train.accumulate = 1  # micro-batches that a device's images of a step are taken in, for its memory (docs/pods.md)
    train.epochs = 12  # of the sampler, so with repeat factor sampling longer than a pass over the images
    train.steps = 0  # if not 0, the length of the run in steps, instead of `epochs`
    train.seed = 0
    train.log_every = 50  # steps
    train.checkpoint_every = 5000  # steps
    train.keep_checkpoints = 2
    # Images of config.data.val_* whose detections TensorBoard shows at each checkpoint; at most a host's part of
    # test.batch_size.
    train.pictures = 0
    # Steps with a loss or gradient that is not finite: nothing is learnt from them, and after more than so many the run
    # stops. 0 stops at the first.
    train.max_skipped_steps = 0
    # Seconds that a step may take before the run is taken to hang, and ends: with its compilation, and at a checkpoint
    # the pictures and the writing of the one before. 0: any time.
    train.stall_seconds = 3600
    # Sums up how hard each category's logits are pushed up and down, for the report (the paper's Figure 4).
    train.gradient_sums = False
    return train


def _test() -> ConfigDict:
    test = ConfigDict()
    test.batch_size = 16  # images over all devices
    test.max_detections = 300  # an image, that figures count
    # An image, in the results files: 0 for max_detections. More of them show what the cut loses, and serve AP-fixed.
    test.written_detections = 0
    test.score_threshold = 1e-4
    test.nms_iou = placeholder(float)
    test.min_size = -1.0  # boxes with a side not longer are dropped, pixels: -1 none, 0 the empty ones
    # Best (proposal, category) pairs an image that enter the class-wise NMS. (max_detections - 1) * test_proposals + 1
    # gives the unlimited procedure's detections for any scores, at some 50 times the cost (docs/performance.md).
    test.pre_nms = 4000
    # Test-time augmentation: each image at all of these sizes, as factors of data.test_short_side, and mirrored too.
    test.scales = (1.0,)
    test.flip = False
    test.mask_threshold = 0.5
    test.protocol = "auto"  # whose figures: auto (as data.format says) | lvis | coco | openimages
    test.evaluator = "hotcoco"  # hotcoco | official (the packages lvis and pycocotools)
    test.figures = "fixed,pooled"  # beside LVIS's own: fixed (AP-fixed), pooled (AP-pool), boundary (slow)
    test.expand_detections = False  # OpenImages: detections count for the ancestors of their categories (MMDetection)
    test.norcal = ConfigDict()
    test.norcal.gamma = 0.0  # scores of a softmax divided by (training images)^gamma; 0 is none
    test.norcal.variant = "exps"  # exps | probs | logits: what is divided
    test.norcal.renormalise = True  # divided by their sum with the background's
    # By which the best checkpoint is kept: auto (AP, of masks if there are any; AP50 for OpenImages) | an AP or
    # AR of metrics.json, such as APr, fixed/AP, bbox/AP | empty: none is kept.
    test.best_figure = "auto"
    test.pictures = 12  # images drawn beside their truth
    test.report = True  # where objects are lost: diagnosis.json and report.html (LVIS and COCO)
    return test
