/* SPDX-License-Identifier: MIT */
/*
 * Device identity and life cycle calls: each takes the device lock around the device's own hook.
 */
#include "device/device.h"

G_DEFINE_QUARK(gw - device - error, gw_device_error)

void device_init(struct device *dev, const struct device_ops *ops, const char *id,
                 const struct gw_state_desc *state, void *state_object)
{
    dev->ops = ops;
    dev->id = g_strdup(id);
    dev->state = state;
    dev->state_object = state_object;
    dev->probe = NULL;
    dev->host = NULL;
    pthread_mutex_init(&dev->lock, NULL);
}

void device_clear(struct device *dev)
{
    pthread_mutex_destroy(&dev->lock);
    g_clear_pointer(&dev->id, g_free);
}

void device_reset(struct device *dev)
{
    pthread_mutex_lock(&dev->lock);
    if (dev->ops->reset)
        dev->ops->reset(dev);
    pthread_mutex_unlock(&dev->lock);
}

void device_start(struct device *dev)
{
    pthread_mutex_lock(&dev->lock);
    if (dev->ops->start)
        dev->ops->start(dev);
    pthread_mutex_unlock(&dev->lock);
}

void device_prepare_stop(struct device *dev)
{
    pthread_mutex_lock(&dev->lock);
    if (dev->ops->prepare_stop)
        dev->ops->prepare_stop(dev);
    pthread_mutex_unlock(&dev->lock);
}

bool device_stop(struct device *dev, uint64_t deadline_ns, GError **error)
{
    pthread_mutex_lock(&dev->lock);
    bool ok = !dev->ops->stop || dev->ops->stop(dev, deadline_ns, error);
    pthread_mutex_unlock(&dev->lock);
    return ok;
}

bool device_flush(struct device *dev, uint64_t deadline_ns, GError **error)
{
    pthread_mutex_lock(&dev->lock);
    bool ok = !dev->ops->flush || dev->ops->flush(dev, deadline_ns, error);
    pthread_mutex_unlock(&dev->lock);
    return ok;
}

void device_announce(struct device *dev)
{
    pthread_mutex_lock(&dev->lock);
    if (dev->ops->announce)
        dev->ops->announce(dev);
    pthread_mutex_unlock(&dev->lock);
}

bool device_forward(struct device *dev, const struct device_forward *to)
{
    pthread_mutex_lock(&dev->lock);
    bool has_frames = dev->ops->forward && dev->ops->forward(dev, to);
    pthread_mutex_unlock(&dev->lock);
    return has_frames;
}

bool device_arrive(struct device *dev, bool is_running, bool expects_frames)
{
    pthread_mutex_lock(&dev->lock);
    bool will_send = dev->ops->arrive && dev->ops->arrive(dev, is_running, expects_frames);
    pthread_mutex_unlock(&dev->lock);
    return will_send;
}

void device_take_frame(struct device *dev, const void *frame, uint32_t n_bytes, bool is_last)
{
    pthread_mutex_lock(&dev->lock);
    if (dev->ops->take_frame)
        dev->ops->take_frame(dev, frame, n_bytes, is_last);
    pthread_mutex_unlock(&dev->lock);
}

void device_tell_first_sent(struct device *dev)
{
    if (dev->host)
        dev->host->first_sent(dev->host->opaque, dev);
}

void device_free(struct device *dev)
{
    if (dev)
        dev->ops->free(dev);
}
