"""Laws that ship, by what they are about; `capscale.analysis.laws` names them."""

from capscale.analysis.shipped.capacity import CAPACITY_LAWS
from capscale.analysis.shipped.dense import DENSE_LAWS
from capscale.analysis.shipped.quantized import QUANTIZED_LAWS

SHIPPED = (*CAPACITY_LAWS, *QUANTIZED_LAWS, *DENSE_LAWS)
