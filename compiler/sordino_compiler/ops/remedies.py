"""What to write instead of an operator that is not supported: the table operator -> remedy, in one place.

An entry names operators of ATen, without overload and without the underscores of in-place and internal forms; `*` stands for
any text. The first entry that matches counts, so that an operator of its own comes before its family. An operator that becomes
supported is in the table of operators, and is not looked up here; an entry that names nothing else is then taken out.
"""

from fnmatch import fnmatchcase

__all__ = ["REMEDIES", "only_moves", "remedy"]

_HEAD = "The host computes {0} behind the last layer: leave it to the end of the model."
_CONSTANT_WEIGHTS = (
    "The array multiplies activations by constant weights: use nn.Conv2d, or nn.Linear for a matrix that is trained."
)
_NO_LOSS = "A loss belongs to training: leave it out of forward, or return before it in evaluation mode."
_NORM = "It computes statistics of each image: train with nn.BatchNorm2d, whose statistics are constants, in its place."
_RECURRENT = "Recurrent layers do not map: use nn.Conv1d or nn.Conv2d over a window of frames, and keep the window on the host."
_THREE = "The array computes two dimensions: apply {0} to each frame, or make depth a part of the channels with a reshape before the model."
_INDEX = "The array's addresses do not depend on data: index on the host, before the model or behind it, or take fixed channels with x[:, a:b]."
_ORDER = "The array does not sort or select: use a mean or a maximum, or return the tensor that it reads and do it on the host."
_COMPARE = "It gives truth values: use them inside a function of one value, as in torch.where(x > 0, x, 0.1 * x), or take them on the host, behind the model."
_RANDOM = "It is random, also in evaluation: leave it out of forward when self.training is False."
_ALGEBRA = "Linear algebra of activations does not map: do it on the host, before the model or behind it. Of constants, compute it in __init__ and register_buffer it."
_SPECTRUM = (
    "Compute spectra on the host and give them to the model as its input, or write the transform as nn.Conv1d with fixed weights."
)
_FLOAT = "Give sordino.quantize the float model: it chooses the scales itself."
_SPARSE = "Zeros are skipped without a sparse format: use the dense tensor (x.to_dense() before the model)."
_COMPLEX = "Activations are real: carry the real and the imaginary part as two groups of channels."
_ONE_ARGUMENT = (
    "Write it with element-wise operators of PyTorch: what depends on one activation becomes a table, however it is composed; "
    "or apply it on the host where it is first or last."
)
_REDUCE = "Use a mean, a sum or a maximum over fixed dimensions, such as x.mean((2, 3)), or reduce on the host, behind the model."
_RESAMPLE = "Use nn.Upsample(mode='nearest') or nn.ConvTranspose2d, or resample on the host, before the model."
_CONSTANT = "Build the tensor in __init__ and register_buffer it, so that it is a constant of the model."
_LAYOUT = "Keep (N, C, H, W) throughout: do it on the host, before the model or behind it."
_TWO = (
    "Of two activations the array computes sums, differences, products, maxima and minima: use x + y or x * y, or combine both on the host, "
    "behind the model."
)
_TRAINING = "It belongs to training or to a back end of PyTorch: export the model's forward in evaluation mode, on the CPU."

REMEDIES: tuple[tuple[str, str], ...] = (
    ("*backward* foreach_* amp_* cudnn_is* miopen_d* mps_* *_jvp record_stream retain* requires_grad is_vulkan* get_gradients", _TRAINING),
    ("softmax log_softmax special_softmax special_log_softmax", _HEAD.format("softmax")),
    ("argmax argmin", _HEAD.format("argmax")),
    ("logsumexp special_logsumexp logcumsumexp", "Use x.amax(d), which it approaches, or take it behind the model, on the host."),
    ("var std var_mean std_mean", "Write the variance as x.square().mean(d) - x.mean(d).square() and take its root on the host, behind the model; to normalise, use "
     "nn.BatchNorm2d, which folds into the convolution."),
    ("linalg_vector_norm norm frobenius_norm linalg_norm", "Write x.square().sum(d, keepdim=True), and take its root on the host, behind the model."),
    ("prod cumprod", "A product over a dimension does not map: use a sum, or take the product on the host, behind the model."),
    ("fractional_max_pool2d", "Its windows are random: use nn.AdaptiveMaxPool2d of the same output size."),
    ("max_unpool2d", "Use nn.Upsample, or nn.ConvTranspose2d with stride 2."),
    ("topk sort msort argsort kthvalue mode median nanmedian quantile nanquantile unique* searchsorted bucketize isin", _ORDER),
    ("masked_select nonzero* argwhere count_nonzero item is_nonzero local_scalar_dense equal allclose", _ORDER),
    ("layer_norm native_layer_norm fused_rms_norm rms_norm instance_norm group_norm native_group_norm *_norm_interface* norm_except_dim", _NORM),
    ("batch_norm* native_batch_norm* cudnn_batch_norm* miopen_batch_norm*", "Build it as nn.BatchNorm2d with track_running_stats=True and call it in evaluation mode."),
    ("matmul mm bmm mv dot vdot inner outer ger addmm addbmm baddbmm addmv addr einsum tensordot bilinear trilinear chain_matmul linalg_matmul "
     "linalg_multi_dot linalg_vecdot kron mkldnn_linear", _CONSTANT_WEIGHTS),
    ("scaled_dot_product* *attention* transform_bias_rescale_qkv transformer_encoder*",
     "The array multiplies activations by constant weights; attention multiplies two activations. Use convolutions, or cut the model before it and run it on the host."),
    ("lstm* gru* rnn_* quantized_lstm* quantized_gru* thnn_fused_* *rnn*", _RECURRENT),
    ("conv3d conv_depthwise3d slow_conv3d* slow_conv_dilated3d", _THREE.format("nn.Conv2d")),
    ("conv_transpose3d slow_conv_transpose3d", _THREE.format("nn.ConvTranspose2d")),
    ("avg_pool3d adaptive_avg_pool3d", _THREE.format("nn.AvgPool2d")),
    ("max_pool3d* adaptive_max_pool3d fractional_max_pool3d *max_pool3d max_unpool3d", _THREE.format("nn.MaxPool2d")),
    ("upsample_nearest3d upsample_trilinear3d reflection_pad3d replication_pad3d grid_sampler_3d *_pad3d", _THREE.format("a two-dimensional layer")),
    ("convolution* *conv1d* *conv2d* conv_tbc slow_conv* thnn_conv2d *convolution* conv_* mkldnn_reorder*", "Use nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d or nn.ConvTranspose2d."),
    ("*max_pool*", "Use nn.MaxPool2d with a fixed kernel and stride."),
    ("*avg_pool*", "Use nn.AvgPool2d with a fixed kernel and stride, or nn.AdaptiveAvgPool2d(1)."),
    ("upsample_* *upsample* grid_sampler* affine_grid* cudnn_grid_sampler cudnn_affine_grid* resize*", _RESAMPLE),
    ("*_loss *_loss_* *_loss2d* *cross_entropy* ctc_loss kl_div *embedding_loss nll_loss* multilabel_margin* multi_margin* cosine_similarity cdist* pdist* pairwise_distance dist*", _NO_LOSS),
    ("bernoulli* multinomial normal* rand* poisson* binomial cauchy exponential geometric log_normal random* uniform* rrelu* native_dropout* fused_dropout* standard_gamma* "
     "sample_dirichlet dirichlet* *dropout*", _RANDOM),
    ("fft_* fft* stft istft *_window", _SPECTRUM),
    ("linalg_* cholesky* inverse pinverse qr orgqr ormqr svd slogdet logdet det lu_* geqrf triangular_solve matrix_exp matrix_power cross cov corrcoef *solve* trace lu*", _ALGEBRA),
    ("fake_quantize* quantize_per* *quantize* choose_qparams* int_repr q_* qscheme fused_moving_avg* fbgemm_* quantized_*", _FLOAT),
    ("to_sparse* sparse* *sparse* coalesce crow_indices* col_indices* ccol_indices* row_indices* indices* values* hspmm smm sspaddmm nested* *nested* to_padded_tensor is_coalesced dense_dim coalesced*", _SPARSE),
    ("view_as_complex* view_as_real* complex real imag polar conj* is_complex is_conj chalf angle neg_view is_neg sgn*", _COMPLEX),
    ("embedding* renorm one_hot", "Look the embedding up on the host, and give its rows to the model as its input."),
    ("gather take* index* scatter* put* *_scatter masked_* segment_reduce* bincount histc histogram* fill_diagonal repeat_interleave unsafe_index* unsafe_masked* "
     "diag* tril* triu* unfold* im2col col2im as_strided* combinations cartesian_prod", _INDEX),
    ("eq ne lt le gt ge not_equal less* greater* logical_* bitwise_* is* signbit where any all heaviside sign zero assert* lshift rshift and or xor iand ior ixor ilshift irshift", _COMPARE),
    ("fmax fmin", "Use torch.maximum or torch.minimum."),
    ("mul multiply div divide true_divide floor_divide fmod remainder addcmul addcdiv hypot atan2 arctan2 copysign xlogy special_xlog* logaddexp* lerp ldexp float_power pow "
     "nextafter gcd lcm igamma* special_zeta polygamma special_polygamma", _TWO),
    ("amax amin aminmax max min sum sum_to_size mean nansum nanmean nuclear_norm native_norm cum* diff trapz trapezoid gradient *cumsum* *cumprod* cummax* cummin* weight_norm* *reduce*", _REDUCE),
    ("arange range linspace logspace eye full* ones* zeros* empty* new_* scalar_tensor vander meshgrid block_diag from_file efficientzerotensor *like "
     "fill* copy* lift* set* to_copy", _CONSTANT),
    ("flip* rot90 roll permute* transpose* movedim moveaxis swap* t t_copy mT mH numpy_T matrix_H adjoint view* reshape* unflatten* flatten* ravel expand* repeat tile broadcast* "
     "stack hstack vstack dstack row_stack column_stack cat concat* hsplit vsplit dsplit split* unsafe_split* tensor_split chunk* unsafe_chunk unbind* select* slice* narrow* squeeze* unsqueeze* atleast_* "
     "pixel_* channel_shuffle native_channel_shuffle pad* *_pad1d *_pad2d constant_pad_nd alias* detach* clone contiguous pin_memory to* type_as data slice* permute* *_copy flatten_dense_tensors unflatten_dense_tensors", _LAYOUT),
    ("abs absolute exp* log* sqrt rsqrt square reciprocal sin* cos* tan* a*sin* a*cos* a*tan* arc* erf* ceil floor round fix trunc frac frexp softplus softshrink hardshrink hard* elu celu selu gelu glu* mish "
     "leaky_relu *relu* threshold prelu sigmoid silu log_sigmoid* logit tanh i0 digamma lgamma mvlgamma special_* nan_to_num deg2rad rad2deg clamp* clip positive neg* sigmoid* rsub sub* add* acosh asinh atanh cosh sinh "
     "expm1", _ONE_ARGUMENT),
    ("numel size stride dim sym_* storage_offset get_device result_type promote_types can_cast output_nr hash_tensor",
     "Sizes are fixed when the model is exported: write them as numbers."),
)  # fmt: skip
"""(operators, remedy) in the order in which they are tried."""


def remedy(operator: str) -> str:
    """What to write instead of `operator` (`aten.softmax`); empty if the table does not know it."""
    name = operator.rpartition(".")[2].strip("_")
    return next((text for names, text in REMEDIES if any(fnmatchcase(name, n) for n in names.split())), "")


def only_moves(operator: str) -> bool:
    """Whether an operator that is not supported only moves values, as far as the table knows."""
    return remedy(operator) == _LAYOUT
